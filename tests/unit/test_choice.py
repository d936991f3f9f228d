"""Of several versions that fit, the one that is better here reads, and the reason is told."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.inference import choice
from client.inference.choice import EVERYBODY, USEFUL, Candidate, Counts, Record, choose, stratum_of

A, B = Candidate("a" * 64, "a@1", 2), Candidate("b" * 64, "b@1", 1)
STRATUM = "F|40-64|siemens"


def counts(right: float, n: int = 100) -> Counts:
    hits = round(right * n)
    return Counts(hits, n - hits, hits, n - hits)


def test_one_that_fits_is_taken() -> None:
    assert choose([A], {}, STRATUM).why == "only"


def test_without_cases_the_vendors_order_decides() -> None:
    few = {(A.digest, EVERYBODY): counts(1.0, 19)}

    made = choose([A, B], few, STRATUM)

    assert (made.digest, made.why) == (B.digest, "vendor")


def test_patients_like_this_one_count_before_all_others() -> None:
    record = {
        (A.digest, EVERYBODY): counts(0.9),
        (B.digest, EVERYBODY): counts(0.7),
        (A.digest, STRATUM): counts(0.6),
        (B.digest, STRATUM): counts(0.8),
    }

    here, elsewhere = choose([A, B], record, STRATUM), choose([A, B], record, "M|18-39|ge")

    assert (here.digest, here.why) == (B.digest, "stratum")
    assert (elsewhere.digest, elsewhere.why) == (A.digest, "site")
    assert "0." in here.text
    assert STRATUM in here.text


def test_much_evidence_counts_more_than_a_lucky_few() -> None:
    record = {(A.digest, EVERYBODY): counts(0.9, 400), (B.digest, EVERYBODY): counts(0.95, 20)}

    assert choose([B, A], record, STRATUM).digest == A.digest


@given(st.permutations([A, B, Candidate("c" * 64, "c@1", 1)]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_order_of_the_candidates_does_not_matter(order: list[Candidate], right: float) -> None:
    record = {(candidate.digest, EVERYBODY): counts(right) for candidate in order}

    assert choose(order, record, STRATUM).digest == B.digest


def test_the_best_is_found_in_strata_whose_best_is_known() -> None:
    """Two hundred strata, one version truly better by a tenth, both seen on the same 300 patients of each."""
    random, right = np.random.default_rng(0), 0
    for _ in range(200):
        better = A if random.random() < 0.5 else B
        record = {}
        for candidate in (A, B):
            rate = 0.9 if candidate is better else 0.8
            hits = random.binomial(150, rate, 2)
            record[candidate.digest, STRATUM] = Counts(
                int(hits[0]), 150 - int(hits[1]), int(hits[1]), 150 - int(hits[0])
            )
        right += choose([A, B], record, STRATUM).digest == better.digest
    assert right / 200 >= 0.95


C = Candidate("c" * 64, "c@1", 3)
PANEL = (A, B, C)


@st.composite
def records(draw: st.DrawFn) -> dict[tuple[str, str], Counts]:
    """Any record: what is known of a stratum is part of what is known of everybody."""
    found: dict[tuple[str, str], Counts] = {}
    for one in PANEL:
        for key in (EVERYBODY, STRATUM):
            cases = draw(st.tuples(*[st.integers(0, 60)] * 4))
            more = found.get((one.digest, EVERYBODY), Counts()) if key == STRATUM else Counts()
            if draw(st.booleans()):
                found[one.digest, key] = Counts(*cases)
            if key == STRATUM and (one.digest, key) in found:
                found[one.digest, EVERYBODY] = Counts(
                    cases[0] + more.true_positive,
                    cases[1] + more.false_positive,
                    cases[2] + more.true_negative,
                    cases[3] + more.false_negative,
                )
    return found


def plus(record: Mapping[tuple[str, str], Counts], digest: str, **case: bool) -> Record:
    return {
        key: counts.with_case(**case) if key[0] == digest and key[1] in (STRATUM, EVERYBODY) else counts
        for key, counts in record.items()
    }


def test_one_that_was_found_bad_here_does_not_read_before_one_that_nobody_knows() -> None:
    for right, n in ((0.3, 20), (0.5, 60), (0.6, 400)):
        made = choose([A, B], {(B.digest, EVERYBODY): counts(right, n)}, STRATUM)
        assert (made.digest, made.why) == (A.digest, "vendor")  # although B comes first
        assert "bad here (b@1" in made.text
    bad_for_these = {(B.digest, EVERYBODY): counts(0.9), (B.digest, STRATUM): counts(0.5)}
    assert choose([A, B], bad_for_these, STRATUM).digest == A.digest
    assert choose([A, B], bad_for_these, "M|18-39|ge").digest == B.digest


def test_one_that_has_proven_itself_here_reads_before_one_that_nobody_knows() -> None:
    made = choose([A, B], {(A.digest, EVERYBODY): counts(0.9)}, STRATUM)
    assert (made.digest, made.why) == (A.digest, "site")
    assert choose([A, B], {(A.digest, EVERYBODY): counts(0.75)}, STRATUM).digest == B.digest  # neither nor


@given(records(), st.permutations(PANEL))
def test_a_choice_follows_from_the_evidence_alone(
    record: dict[tuple[str, str], Counts], order: list[Candidate]
) -> None:
    chosen = choose(order, record, STRATUM)
    assert chosen == choose(PANEL, record, STRATUM)
    known = {one.digest: record.get((one.digest, EVERYBODY), Counts()).bounds for one in PANEL}
    like_these = record.get((chosen.digest, STRATUM), Counts()).bounds
    found = like_these or known[chosen.digest]
    if found and found[1] < USEFUL:  # bad, and reads: then everybody is known
        assert all(known.values())
    if chosen.why == "vendor":
        assert not all(known.values())


@given(records())
def test_a_right_call_more_never_costs_a_version_its_place(record: dict[tuple[str, str], Counts]) -> None:
    chosen = choose(PANEL, record, STRATUM)
    for truth in (True, False):
        assert choose(PANEL, plus(record, chosen.digest, called=truth, truth=truth), STRATUM).digest == chosen.digest


def test_two_equals_do_not_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty hospitals validate 300 cases, one after the other, of two versions that are right as often."""
    random = np.random.default_rng(1)
    right = np.cumsum(random.random((20, 2, 2, 300)) < 0.85, axis=-1)  # hospital, version, truth, case
    took: dict[float, float] = {}
    for margin in (0.0, choice.MARGIN):
        monkeypatch.setattr(choice, "MARGIN", margin)
        read = [
            choose([A, B], {(one.digest, EVERYBODY): seen(each[v], n) for v, one in enumerate((A, B))}, "?").digest
            for each in right
            for n in range(40, 300, 20)
        ]
        took[margin] = sum(digest == A.digest for digest in read) / len(read)  # B is the vendor's first
    assert took[choice.MARGIN] < took[0.0] - 0.1


def seen(right: NDArray[np.int64], n: int) -> Counts:
    hits, rejected = (int(row[n - 1]) for row in right)
    return Counts(hits, n - rejected, rejected, n - hits)


@pytest.mark.parametrize(
    ("facts", "stratum"),
    [
        (("F", 50.0, "SIEMENS Healthineers"), "F|40-64|siemens"),
        (("M", 3.0, "GE MEDICAL SYSTEMS"), "M|child|ge"),
        (("", None, None), "?|?|?"),
        (("X", 80.0, "  "), "?|65+|?"),
    ],
)
def test_strata(facts: tuple[str, float | None, str | None], stratum: str) -> None:
    assert stratum_of(*facts) == stratum
