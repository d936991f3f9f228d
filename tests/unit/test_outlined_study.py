"""However many series of a study were outlined, it has one report: verified, amended and withdrawn as one."""

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from pydicom.dataset import Dataset
from sqlalchemy import insert, select, update

from client.dicom import series
from client.inference import outcomes
from client.inference.measure import measure
from client.inference.objects import objects
from client.inference.pipeline import ScoredVolumes
from client.inference.structure import heard, structure
from client.inference.study import Image
from client.results import conformity, outlines
from client.results.amend import Opinion, local, verify
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from client.review import readers, recall, worklist
from client.review.verdict import Answer, Decision, Reason, TruthTier, record, remake_document
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study, version
from configs.schema import ResultsConfig
from models.bundle import Bundle

DIGEST = "ab" * 32
STUDY = "1.2.826.77"


@pytest.fixture
def outlined(volumes: ModuleType) -> tuple[Outlined, ...]:
    """Two series of a study with the structure and one without it, as they were read: positive first."""

    def read(number: int, **cut: Any) -> Outlined:
        images = volumes.series(count=12, shape=(64, 64), StudyInstanceUID=STUDY, **cut)
        found = series.stack(
            [plane for n, image in enumerate(images) for plane in series.planes(f"{number:032}{n:032}", image)]
        )
        labels = np.stack([volumes.inside(volumes.grid(image)) for image in images]).astype(np.uint8)
        facts = volumes.facts(volumes.declared(radiotherapy=True))
        measured = tuple(measure(labels, found.spacing, volumes.declared()))
        key = np.zeros(found.shape[1:], np.float32)
        bundle = Bundle(Path("nowhere"), DIGEST, "vendor", facts)
        chances = labels * np.uint8(255)
        return Outlined(
            found, labels, key, measured, {}, float(labels.max()), 0.5, 1, bundle, "Hospital", 1.7e9, chances=chances
        )

    empty = read(3)
    nothing = np.zeros_like(empty.labels)
    return read(1), read(2, step=2.0), replace(empty, labels=nothing, chances=nothing, measured=(), score=0.1)


def groups(report: Dataset) -> list[Dataset]:
    library = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(library.ContentSequence)


def coded(group: Dataset) -> dict[str, str]:
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item.ConceptCodeSequence[0].CodeValue
        for item in group.ContentSequence
        if item.ValueType == "CODE"
    }


def one_report(made: list[ResultObject]) -> ResultObject:
    (report,) = (item for item in made if item.kind == "sr")
    return report


def test_one_report_says_the_study_s_answer_once_and_of_each_series_what_was_found(
    outlined: tuple[Outlined, ...], tmp_path: Path
) -> None:
    made = outlines.make(OutlinedStudy(outlined))
    report = one_report(made)

    assert made[-1] is report
    assert conformity.examine(report.content).problems == ()
    found = [coded(group) for group in groups(report.dataset)]
    finding = outlined[0].bundle.facts.finding.value
    # by series: its summary, then its structures
    assert [group.get("111017") for group in found] == ["111242", None, "111242", None, "111241"]
    assert [group.get(finding) for group in found if finding in group] == ["52101004"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(report.content)
    rois = srread(path).content.get_volumetric_roi_measurement_groups()
    segmentations = [item.sop_uid for item in made if item.kind == "seg"]
    assert [
        roi.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for roi in rois
    ] == segmentations
    tracked = [roi.tracking_uid for roi in rois]
    assert len(set(tracked)) == 2
    evidence = report.dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {one.stack.series_uid for one in outlined} <= {item.SeriesInstanceUID for item in evidence}


def test_the_report_is_the_same_in_whatever_order_the_series_were_read(outlined: tuple[Outlined, ...]) -> None:
    first, second, third = outlined
    made = [OutlinedStudy(order) for order in ((first, second, third), (second, third, first))]

    assert len({one_report(outlines.make(one)).sop_uid for one in made}) == 1
    alone = OutlinedStudy((first,))
    assert one_report(outlines.make(alone)).sop_uid != one_report(outlines.make(made[0])).sop_uid


@pytest.mark.parametrize(("positive", "answer"), [(True, "52101004"), (False, "2667000")])
def test_a_signature_answers_for_the_study_and_invents_nothing_for_a_series(
    outlined: tuple[Outlined, ...], positive: bool, answer: str
) -> None:
    first = one_report(outlines.make(OutlinedStudy(outlined)))
    signed = verify(first.content, Opinion("Ada Lovelace", "Hospital", 1.7e9, positive, (), 1))

    finding = outlined[0].bundle.facts.finding.value
    assert [coded(group)[finding] for group in groups(signed.dataset) if finding in coded(group)] == [answer]
    assert conformity.examine(signed.content).problems == ()
    named = signed.dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in named] == [first.sop_uid]


def text(report: Dataset) -> str:
    return "\n".join(str(element) for element in report.iterall() if element.VR != "SQ")


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("only", [1, 3])
def test_a_report_of_what_is_not_there_measures_and_shows_nothing(
    outlined: tuple[Outlined, ...], only: int, tmp_path: Path
) -> None:
    made = outlines.make(OutlinedStudy(outlined[:only]))
    first = one_report(made)
    said = ((local("DECISION", "Reader's decision"), local("CORRECT", "Correct")),)
    signed = verify(first.content, Opinion("Ada Lovelace", "Hospital", 1.7e9, False, said, 1))

    finding = outlined[0].bundle.facts.finding.value
    found = [coded(group) for group in groups(signed.dataset)]
    # of each series the summary, which is the version's
    assert [group["111017"] for group in found] == ["111242", "111242", "111241"][:only]
    assert [group[finding] for group in found if finding in group] == ["2667000"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(signed.content)
    assert not srread(path).content.get_volumetric_roi_measurement_groups()
    others = [item.sop_uid for item in made if item is not first]
    assert [uid for uid in others if uid in text(signed.dataset)] == []
    # the images that were read are what it rests on
    read = {
        str(item.SeriesInstanceUID): len(item.ReferencedSOPSequence)
        for item in signed.dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    }
    assert read == {one.stack.series_uid: len(one.stack.planes) for one in outlined[:only]}
    assert conformity.examine(signed.content).problems == ()
    told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
    assert "Error" not in told


@pytest.fixture
def concluded(site: Site, outlined: tuple[Outlined, ...]) -> Callable[[int], str]:
    """Conclude a revision of the study with all its series: gives its UID."""
    archive = Archive(site.archive)

    def conclude(revision: int) -> str:
        with site.database.write() as connection:
            if revision == 1:
                connection.execute(
                    insert(version).values(
                        digest=DIGEST, name="nodule", number=1, state="adopted", received_at=1.0, adopted_at=1.0
                    )
                )
                connection.execute(insert(study).values(uid=STUDY, state="queued", received_at=1.0, touched_at=1.0))
            connection.execute(
                update(study).where(study.c.uid == STUDY).values(state="queued", revision=revision, attempts=0)
            )
        taken = outcomes.take(site)
        assert taken is not None
        assert not isinstance(taken, outcomes.Exhausted)
        read = tuple(replace(one, revision=revision) for one in outlined)
        result = ScoredVolumes(read, Image("1.2.3", "1.2", "c" * 64), "cpu", ())
        wanted = ResultsConfig(heat_maps=True, structure_sets=True)
        assert outcomes.conclude(site, archive, taken, result, partial(objects, wanted=wanted))
        return STUDY

    return conclude


def sent(site: Site) -> list[tuple[str, str, Dataset]]:
    archive = Archive(site.archive)
    with site.database.read() as connection:
        rows = connection.execute(select(delivery)).all()
    return [(row.kind, row.sop_uid, pydicom.dcmread(io.BytesIO(archive.read(row.sha256)))) for row in rows]


def content(site: Site, sop_uid: str) -> bytes:
    with site.database.read() as connection:
        digest = connection.execute(select(delivery.c.sha256).where(delivery.c.sop_uid == sop_uid)).scalar_one()
    return Archive(site.archive).read(digest)


def withdrawn(selection: Dataset) -> set[str]:
    return {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in selection.ContentSequence
        if "ReferencedSOPSequence" in item
    }


def test_what_was_measured_keeps_what_it_is_of_and_says_what_it_was_not_compared_with(
    site: Site, concluded: Callable[[int], str], volumes: ModuleType
) -> None:
    uid = concluded(1)
    with site.database.read() as connection:
        kept = connection.execute(select(outcome.c.measurements)).scalar_one()
    measured = [label for one in kept["series"] for label in one["labels"]]
    assert len(measured) == 2
    assert {heard(label["structure"]) for label in measured} == {structure(volumes.declared(), 1)}

    for one in kept["series"]:
        one["uncompared"] = "not compared"
    with site.database.write() as connection:
        connection.execute(update(outcome).values(measurements=kept))
    shown = worklist.one(site, uid).line.result
    assert shown is not None
    assert shown.structures[2:] == ("not compared",)


def test_a_later_revision_s_report_takes_the_place_of_the_one_before(
    site: Site, concluded: Callable[[int], str]
) -> None:
    concluded(1)
    concluded(2)

    before, after = (dataset for kind, _, dataset in sent(site) if kind == "sr")
    named = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in named] == [before.SOPInstanceUID]


def test_a_report_takes_the_place_only_of_one_that_the_pacs_has_or_gets(
    site: Site, concluded: Callable[[int], str]
) -> None:
    def named() -> str:
        last = [dataset for kind, _, dataset in sent(site) if kind == "sr"][-1]
        (item,) = last.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
        return str(item.ReferencedSOPInstanceUID)

    def became(number: int, state: str) -> str:
        uid = [sop_uid for kind, sop_uid, _ in sent(site) if kind == "sr"][number]
        with site.database.write() as connection:
            connection.execute(update(delivery).where(delivery.c.sop_uid == uid).values(state=state))
        return uid

    concluded(1)
    first = became(0, "committed")
    concluded(2)
    second = became(1, "pending")
    concluded(3)
    assert named() == second
    became(1, "dropped")
    became(2, "quarantined")
    concluded(4)
    assert named() == first


@pytest.mark.parametrize("by", ["rejection", "recall"])
def test_a_withdrawal_takes_back_everything_of_every_series(
    site: Site, concluded: Callable[[int], str], by: str
) -> None:
    uid = concluded(1)
    made = {sop_uid for _, sop_uid, _ in sent(site)}
    kinds = [kind for kind, _, _ in sent(site)]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "seg": 2, "gsps": 2, "rtstruct": 2, "pm": 2, "sc": 3, "sr": 1,
    }  # fmt: skip

    if by == "recall":
        told = recall.take_back(site, "nodule@1", "Ada Lovelace")
        assert told.exact
        assert told.withdrawn == 1
    else:
        readers.add(site, "Ada Lovelace", "clinician")
        record(
            site, uid, "Ada Lovelace", revision=1, decision=Decision.REJECT, answer=Answer.NOT_ASSESSABLE,
            tier=TruthTier.AI_VISIBLE, reason=Reason.WRONG_PLACE,
        )  # fmt: skip

    (selection,) = (dataset for kind, _, dataset in sent(site) if kind == "kos")
    assert withdrawn(selection) == made


def test_a_correction_to_absent_withdraws_what_was_drawn_and_keeps_the_reports(
    site: Site, concluded: Callable[[int], str]
) -> None:
    uid = concluded(1)
    made = {sop_uid for kind, sop_uid, _ in sent(site) if kind != "sr"}
    readers.add(site, "Ada Lovelace", "clinician")

    record(
        site, uid, "Ada Lovelace", revision=1, decision=Decision.CORRECT, answer=Answer.NEGATIVE,
        tier=TruthTier.AI_VISIBLE, reason=Reason.DANGEROUS,
    )  # fmt: skip

    [(_, report, signed)] = [one for one in sent(site) if one[0] == "verified"]
    [(_, withdrawal, selection)] = [one for one in sent(site) if one[0] == "kos"]
    assert withdrawn(selection) == made
    assert selection.ConceptNameCodeSequence[0].CodeValue == "113037"
    assert conformity.examine(content(site, withdrawal)).problems == ()
    assert [group for group in groups(signed) if "111017" not in coded(group)] == []
    [entry] = site.ledger.entries("verdict")
    facts = json.loads(entry.facts)
    assert (facts["document"], facts["withdrawal"]) == (report, withdrawal)
    # either may fail to be sent, and is then made anew as it was
    for sop_uid in (report, withdrawal):
        before = content(site, sop_uid)
        with site.database.write() as connection:
            connection.execute(update(delivery).where(delivery.c.sop_uid == sop_uid).values(state="failed"))
        remake_document(site, sop_uid)
        assert content(site, sop_uid) == before


def test_agreement_with_an_outline_withdraws_nothing(site: Site, concluded: Callable[[int], str]) -> None:
    uid = concluded(1)
    readers.add(site, "Ada Lovelace", "clinician")

    record(
        site, uid, "Ada Lovelace", revision=1, decision=Decision.AGREE, answer=Answer.POSITIVE,
        tier=TruthTier.AI_VISIBLE,
    )  # fmt: skip

    first, signed = (next(one for kind, _, one in sent(site) if kind == which) for which in ("sr", "verified"))
    assert len(groups(signed)) == len(groups(first)) == 5
    assert [kind for kind, _, _ in sent(site) if kind == "kos"] == []


@pytest.mark.parametrize("first", [Decision.CORRECT, Decision.REJECT])
def test_what_was_withdrawn_is_in_no_later_report(site: Site, concluded: Callable[[int], str], first: Decision) -> None:
    uid = concluded(1)
    pictures = {sop_uid for kind, sop_uid, _ in sent(site) if kind != "sr"}
    for name in ("Ada Lovelace", "Grace Hopper"):
        readers.add(site, name, "clinician")
    answer = Answer.NEGATIVE if first is Decision.CORRECT else Answer.NOT_ASSESSABLE
    record(
        site, uid, "Ada Lovelace", revision=1, decision=first, answer=answer, tier=TruthTier.AI_VISIBLE,
        reason=Reason.SUBTLE,
    )  # fmt: skip
    record(
        site, uid, "Grace Hopper", revision=1, decision=Decision.AGREE, answer=Answer.POSITIVE,
        tier=TruthTier.AI_VISIBLE,
    )  # fmt: skip

    kind, sop_uid, signed = sent(site)[-1]
    assert kind == "verified"
    assert [one for one in pictures if one in text(signed)] == []
    assert [group for group in groups(signed) if "111017" not in coded(group)] == []  # nothing is measured on it
    finding = "52101004"
    assert finding in [value for group in groups(signed) for value in coded(group).values()]
    before = content(site, sop_uid)
    assert conformity.examine(before).problems == ()
    with site.database.write() as connection:
        connection.execute(update(delivery).where(delivery.c.sop_uid == sop_uid).values(state="failed"))
    remake_document(site, sop_uid)
    assert content(site, sop_uid) == before
