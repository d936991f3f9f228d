"""What became known later: the right study and patient, once, corrected and taken back, and above what readers said."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.review import readers
from client.review.verdict import Answer, Decision, TruthTier, record
from client.store import versions
from client.store.site import Site
from client.vigilance import exams, later, register
from client.vigilance.register import ErrorKind
from models.errors import InvalidVerdict
from scripts.vigie import app

Scored = Callable[..., str]
HEAD = "reference,study,accession,patient,issuer,answer,tier,date,finding\n"


@pytest.fixture
def bring(site: Site, tmp_path: Path) -> Callable[..., later.Taken]:
    """Take lines of CSV in: `bring("P1,,A1,17,,positive,biopsy,2026-01-02,", …)`."""

    def take(*lines: str) -> later.Taken:
        path = tmp_path / "truth.csv"
        path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8-sig")
        return later.take(site, later.read_csv(path), "csv", "ada")

    return take


def test_a_biopsy_counts_above_a_reader_and_a_study_needs_no_verdict(
    site: Site, scored: Scored, bring: Callable[..., later.Taken]
) -> None:
    readers.add(site, "ada", "clinician")
    judged = scored(score=0.1, patient_id="17", accession="A1")
    record(site, judged, "ada", revision=1, decision=Decision.AGREE, answer=Answer.NEGATIVE, tier=TruthTier.AI_VISIBLE)
    unread = scored(score=0.9, patient_id="18", accession="A2")
    taken = bring("P1,,A1,17,,positive,biopsy,2026-01-02,", f"P2,{unread},,18,,negative,follow_up,2026-01-03,")
    assert (taken.new, taken.changed, taken.known, taken.refused) == (2, 0, 0, ())
    cases = {case.study_uid: (case.positive, case.tier) for case in register.cases(site)}
    assert cases == {judged: (True, TruthTier.BIOPSY), unread: (False, TruthTier.FOLLOW_UP)}
    kinds = {error.study_uid: error.kind for error in register.errors(site)}
    assert kinds == {judged: ErrorKind.FALSE_NEGATIVE, unread: ErrorKind.FALSE_POSITIVE}
    assert sum(tally.validated for tally in register.tallies(site)) == 2
    known = {exam.study_uid: exam.truth for exam in exams.sampled(site, TruthTier.SINGLE_READER)}
    assert all(cases[uid][0] is truth for uid, truth in known.items())
    [entry, _] = site.ledger.entries("truth.imported")
    assert "P1" not in entry.facts
    assert site.reference_key("P1") in entry.facts


def test_it_may_come_twice_be_corrected_and_taken_back_and_all_is_kept(
    site: Site, scored: Scored, bring: Callable[..., later.Taken]
) -> None:
    uid = scored(score=0.9, patient_id="17", accession="A1")
    bring("P1,,A1,17,,positive,follow_up,2026-01-02,")
    again = bring("P1,,A1,17,,positive,follow_up,2026-01-02,", "P1,,A1,17,,negative,biopsy,2026-02-02,")
    assert (again.new, again.changed, again.known) == (0, 1, 1)
    [case] = register.cases(site)
    assert (case.positive, case.tier) == (False, TruthTier.BIOPSY)
    late = bring("P1,,A1,17,,positive,follow_up,2026-01-02,")  # the first file once more
    assert (late.changed, len(late.refused), register.cases(site)) == (0, 1, [case])
    bring("P1,,A1,17,,retracted,biopsy,2026-02-03,")
    assert register.cases(site) == []
    assert [row.answer for row in later.history(site, uid)] == ["positive", "negative", "retracted"]
    bring("P9,,A1,17,,not_assessable,follow_up,2026-02-03,")
    assert [error.kind for error in register.errors(site)] == [ErrorKind.NOT_ASSESSABLE]


def test_what_does_not_fit_is_refused_alone_and_says_where(
    site: Site, scored: Scored, bring: Callable[..., later.Taken]
) -> None:
    scored(patient_id="17", accession="A1")
    scored(patient_id="18", accession="A2")
    scored(patient_id="19", accession="A3")
    scored(patient_id="19", accession="A3")
    found = bring(
        "P1,,A1,18,,positive,biopsy,2026-01-02,",  # another patient's study
        "P2,,A1,17,H,positive,biopsy,2026-01-02,",  # another issuer's 17
        "P3,,A9,17,,positive,biopsy,2026-01-02,",
        "P4,,A3,19,,positive,biopsy,2026-01-02,",
        "P5,,A1,17,,perhaps,biopsy,2026-01-02,",
        "P6,,A1,17,,positive,single_reader,2026-01-02,",
        "P7,,A1,17,,positive,biopsy,02.01.2026,",
        "P8,,A1,17,,positive,biopsy,2999-01-01,",
        "P9,,A1,17,,retracted,biopsy,2026-01-02,",
        ",,A1,17,,positive,biopsy,2026-01-02,",
        "P10,,,17,,positive,biopsy,2026-01-02,",
        "P11,,A1,17,,positive,biopsy,2026-01-02,lung",
        "P12,,A2,18,,positive,biopsy,2026-01-02,",
        "P12,,A1,17,,positive,biopsy,2026-01-02,",  # the same reference, another study
    )
    assert found.new == 1
    assert [one.place for one in found.refused] == [f"line {number}" for number in [*range(2, 14), 15]]
    assert "another patient" in found.refused[0].why
    assert "name the study" in found.refused[3].why
    assert [case.study_uid for case in register.cases(site)] != []


def test_the_truth_of_another_finding_is_none_of_the_version_s(
    site: Site, scored: Scored, bring: Callable[..., later.Taken]
) -> None:
    scored(patient_id="17", accession="A1")
    bring("P1,,A1,17,,positive,biopsy,2026-01-02,SCT:1")
    assert register.cases(site) == []
    served = versions.serving(site, "brightness")
    assert served is not None
    bring(f"P2,,A1,17,,positive,biopsy,2026-01-02,{':'.join(versions.finding(site, served.digest) or ())}")
    assert len(register.cases(site)) == 1


def test_a_file_that_is_none_is_refused_and_the_command_says_what_it_did(
    site: Site, scored: Scored, tmp_path: Path
) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("patient,answer\n17,positive\n")
    with pytest.raises(InvalidVerdict, match="reference"):
        list(later.read_csv(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidVerdict, match="UTF-8"):
        list(later.read_csv(path))
    uid = scored(patient_id="17", accession="A1")
    path.write_text(HEAD + "P1,,A1,17,,positive,biopsy,2026-01-02,\nP2,,A1,18,,positive,biopsy,2026-01-02,\n")
    said = CliRunner().invoke(app, ["site", "truth", "import", "--folder", str(site.folder), str(path)])
    assert said.exit_code == 1
    assert "line 3" in said.output
    assert "1 new" in said.output
    told = CliRunner().invoke(app, ["site", "truth", "history", "--folder", str(site.folder), uid])
    assert "positive" in told.output
