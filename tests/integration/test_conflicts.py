"""`vigie site conflicts`: a person says which of the images with one UID stands, and the study is read with it."""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import JPEGLSLossless, generate_uid
from pynetdicom import AE, build_context
from sqlalchemy import select, update
from typer.testing import CliRunner

from client import doctor
from client.arrival import conflicts
from client.arrival.completeness import Bounds
from client.arrival.conflicts import keep, listed, look_at
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.dicom import copies
from client.dicomweb.holdings import Holdings
from client.inference import outcomes
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Outcome, Pipeline, Refused, Scored
from client.inference.refusals import Refusals
from client.inference.tensors import Tensors
from client.review import worklist
from client.review.recall import take_back
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, instance, ledger, outcome, patient, study
from models.errors import Conflict, NotFound
from scripts.vigie import app

pytestmark = pytest.mark.integration

Make = Callable[..., Dataset]
AT_ONCE = Bounds(0.0, 0.0, 0.0)
JPEG_XL = "1.2.840.10008.1.2.4.110"


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


def send(gateway: Gateway, *images: Dataset, title: str = "MODALITY") -> None:
    entity = AE(title)
    wanted = dict.fromkeys((str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in images)
    entity.requested_contexts = [build_context(*one) for one in wanted]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert association.is_established
    try:
        assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    finally:
        association.release()


def rows(site: Site, table: Any) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(table)).all())


def same_uids(image: Dataset, *also: str) -> dict[str, Any]:
    names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber", *also)
    return {name: image[name].value for name in names}


def state(site: Site, uid: str) -> tuple[str, int]:
    (row,) = (row for row in rows(site, study) if row.uid == uid)
    return row.state, row.revision


def take(site: Site) -> outcomes.Study:
    taken = outcomes.take(site)
    assert isinstance(taken, outcomes.Study)
    return taken


@lru_cache(maxsize=1)
def panel_of(site: Site) -> Panel:
    """As in a worker, a version is loaded once."""
    return Panel(site)


def read(site: Site) -> Outcome:
    """The study whose turn it is, from the queue to the objects that wait for the PACS."""
    panel = panel_of(site).members
    archive = Archive(site.archive)
    taken = take(site)
    result = Pipeline(archive, Tensors(site.tensors, archive), panel, "Hospital").process(taken)
    make, mark = partial(objects, wanted=site.config.results), Refusals(site, archive, panel).mark
    assert outcomes.conclude(site, archive, taken, result, make, mark)
    return result


def reports(site: Site) -> list[Dataset]:
    """Of each revision in turn, the one that its study's result is told by."""
    with site.database.read() as connection:
        query = (
            select(delivery.c.sha256)
            .join(outcome, outcome.c.id == delivery.c.outcome_id)
            .where(delivery.c.kind == "sr")
            .order_by(outcome.c.id)
        )
        digests = connection.execute(query).scalars().all()
    return [dcmread(Archive(site.archive).path(digest)) for digest in digests]


def predecessor(report: Dataset) -> str:
    (item,) = report.PredecessorDocumentsSequence
    return str(item.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def two(site: Site, gateway: Gateway, radiograph: Make) -> tuple[Dataset, Dataset, str]:
    """A study that was read with the first of two images of one UID; both, and its UID."""
    first = radiograph(0.2)
    other = radiograph(0.9, **same_uids(first))
    send(gateway, first)
    send(gateway, other, title="PACS")
    assert Receiving(site, AT_ONCE).complete() == 1
    result = read(site)
    assert isinstance(result, Scored)
    assert [reason.code for reason in result.reasons] == ["conflicting"]
    return first, other, str(first.StudyInstanceUID)


def test_a_good_copy_takes_the_place_of_one_that_was_cut_and_the_study_is_read_with_it(
    site: Site, gateway: Gateway, radiograph: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good = radiograph(0.9)
    cut = radiograph(0.9, **same_uids(good))
    cut.PixelData = good.PixelData[:1000]
    send(gateway, cut)
    send(gateway, good, title="PACS")
    uid = good.StudyInstanceUID
    assert Receiving(site, AT_ONCE).complete() == 1
    refused = read(site)
    assert isinstance(refused, Refused)
    assert [reason.code for reason in refused.reasons] == ["truncated", "conflicting"]
    assert "vigie site conflicts" in doctor._conflicting(site).advice

    (clash,) = look_at(site, listed(site, good.AccessionNumber))
    assert not clash.settled
    assert [(one.stands, one.calling_ae, one.looked and one.looked.problem) for one in clash.copies] == [
        (True, "MODALITY", "truncated"),
        (False, "PACS", ""),
    ]
    assert clash.copies[1].looked == copies.Looked("", ("PixelData",))

    done = keep(site, uid, "readable")

    assert (done.chosen, done.before) == (1, 0)
    assert [(one.revision, one.done) for one in done.studies] == [(2, "read-again")]
    assert state(site, uid) == ("queued", 2)
    scored = read(site)
    assert isinstance(scored, Scored)
    assert scored.finding.positive
    assert not scored.finding.partial
    assert scored.reasons == ()
    told = reports(site)
    assert predecessor(told[1]) == told[0].SOPInstanceUID
    assert worklist.one(site, uid).line.conflicting == ""
    assert doctor._conflicting(site).found == "none"
    assert listed(site) == []
    assert [one.settled for one in listed(site, settled=True)] == [True]
    # both files are there, and nothing that says who it is left the database
    assert all(Archive(site.archive).path(row.sha256).exists() for row in rows(site, instance))
    entry = next(row for row in rows(site, ledger) if row.event == "instance.chosen")
    assert json.loads(entry.facts).keys() == {"study", "input", "instead", "by"}
    assert site.ledger.first_break() is None
    for secret in (good.PatientID, str(good.PatientName), uid, good.SOPInstanceUID, good.AccessionNumber):
        assert secret not in entry.facts
        assert secret not in caplog.text


def test_a_choice_is_made_once_and_can_be_made_again(site: Site, gateway: Gateway, radiograph: Make) -> None:
    first, other, uid = two(site, gateway, radiograph)
    sop = first.SOPInstanceUID
    held = Holdings(site)
    before = [one.sha256 for one in held.instances(uid)]
    assert held.study(uid).series[first.SeriesInstanceUID].digest == before[0]
    # that the first one is right is a choice, too: the study is whole with it
    assert keep(site, sop, "first").chosen == 1
    result = read(site)
    assert isinstance(result, Scored)
    assert (result.finding.partial, result.finding.positive) == (False, False)
    again = keep(site, sop, "first")
    assert (again.chosen, again.before, again.studies) == (0, 1, ())
    assert state(site, uid) == ("scored", 2)

    digest = next(copy.digest for copy in listed(site, sop, settled=True)[0].copies if not copy.stands)
    keep(site, sop, digest[:6].upper())
    assert state(site, uid) == ("queued", 3)
    result = read(site)
    assert isinstance(result, Scored)
    assert result.finding.positive
    assert result.image.sha256 == digest
    told = reports(site)
    assert [predecessor(one) for one in told[1:]] == [one.SOPInstanceUID for one in told[:-1]]
    # what is shown is what was read, also by a web process that knew the other one
    shown = held.instances(uid)
    assert digest in {one.sha256 for one in shown}
    assert before[0] not in {one.sha256 for one in shown}
    series = held.study(uid).series[first.SeriesInstanceUID]
    assert (series.digest, series.instances) == (digest, 1)
    # sent again, each of them changes nothing
    send(gateway, first, other)
    assert state(site, uid) == ("scored", 3)
    assert [row.event for row in rows(site, ledger)].count("instance.chosen") == 2


def test_what_comes_after_a_choice_waits_for_another(site: Site, gateway: Gateway, radiograph: Make) -> None:
    first, _, uid = two(site, gateway, radiograph)
    keep(site, uid, "last")
    assert isinstance(read(site), Scored)
    send(gateway, radiograph(0.5, **same_uids(first)))
    assert state(site, uid) == ("scored", 2)
    assert worklist.one(site, uid).line.conflicting.startswith("1 image was left out")
    (clash,) = listed(site)
    assert (clash.settled, [copy.stands for copy in clash.copies]) == (False, [False, True, False])
    with pytest.raises(Conflict, match="3 copies are 'readable'"):
        keep(site, uid, "readable")
    for wrong in ("ffffff", "f", ""):
        with pytest.raises(NotFound):
            keep(site, uid, wrong)
    with pytest.raises(NotFound):
        keep(site, "1.2.3", "first")
    with pytest.raises(NotFound):
        keep(site, first.AccessionNumber, "first")  # it may be of several studies
    assert state(site, uid) == ("scored", 2)


def test_a_study_that_is_coming_is_being_read_or_is_nobodys_to_read(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    first = radiograph(0.2)
    uid = first.StudyInstanceUID
    send(gateway, first, radiograph(0.9, **same_uids(first)))
    assert [one.done for one in keep(site, uid, "last").studies] == ["still-coming"]
    assert state(site, uid) == ("receiving", 1)
    assert Receiving(site, AT_ONCE).complete() == 1

    archive = Archive(site.archive)
    taken = take(site)
    result = Pipeline(archive, Tensors(site.tensors, archive), Panel(site).members, "Hospital").process(taken)
    assert isinstance(result, Scored)
    assert result.finding.positive
    assert [one.done for one in keep(site, uid, "first").studies] == ["read-again"]  # while it was being read
    assert not outcomes.conclude(site, archive, taken, result, lambda _: [])
    assert state(site, uid) == ("queued", 1)
    result = read(site)
    assert isinstance(result, Scored)
    assert not result.finding.positive
    assert state(site, uid) == ("scored", 1)

    with site.database.write() as connection:
        connection.execute(update(study).values(state="prior"))
    assert [one.done for one in keep(site, uid, "last").studies] == ["prior"]
    assert state(site, uid) == ("prior", 1)


def test_a_study_that_failed_or_was_recalled_is_read_by_what_serves_now(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    _, _, uid = two(site, gateway, radiograph)
    (held,) = versions.panel(site)
    take_back(site, f"{held.name}@{held.number}", "somebody")
    keep(site, uid, "last")
    refused = read(site)
    assert isinstance(refused, Refused)  # nothing serves, and no withdrawn report is named
    assert [reason.code for reason in refused.reasons] == ["no-version"]
    assert len(reports(site)) == 1
    assert state(site, uid) == ("refused", 2)
    with site.database.write() as connection:
        connection.execute(update(study).values(state="failed"))
    keep(site, uid, "first")
    assert state(site, uid) == ("queued", 3)


def test_a_copy_whose_file_is_gone_or_altered_is_not_chosen(site: Site, gateway: Gateway, radiograph: Make) -> None:
    _, _, uid = two(site, gateway, radiograph)
    lost = Archive(site.archive).path(listed(site)[0].copies[1].digest)
    content = lost.read_bytes()
    lost.chmod(0o640)
    lost.write_bytes(content[:-100])
    with pytest.raises(Conflict, match="altered"):
        keep(site, uid, "last")
    lost.unlink()
    (clash,) = look_at(site, listed(site))
    assert (clash.copies[1].size, clash.copies[1].looked) == (None, copies.Looked("file-gone"))
    with pytest.raises(Conflict, match="send it again"):
        keep(site, uid, "last")
    assert state(site, uid) == ("scored", 1)
    assert keep(site, uid, "readable").chosen == 1  # the one that is there


def test_of_two_persons_at_once_the_second_is_told_to_look_again(
    site: Site, gateway: Gateway, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, uid = two(site, gateway, radiograph)
    looked = threading.Barrier(2)
    whole = conflicts._require_whole

    def both(*args: Any) -> None:
        whole(*args)
        looked.wait(10)  # both have seen the same, and neither has written

    monkeypatch.setattr(conflicts, "_require_whole", both)
    said: list[object] = []

    def choose(which: str) -> None:
        try:
            said.append(keep(site, uid, which).chosen)
        except Conflict as error:
            said.append(str(error))

    persons = [threading.Thread(target=choose, args=(which,)) for which in ("first", "last")]
    for person in persons:
        person.start()
    for person in persons:
        person.join(20)
    assert sorted(map(type, said), key=str) == [int, str]
    assert any("look again" in str(one) for one in said)
    assert state(site, uid) == ("queued", 2)
    assert sum(row.event == "instance.chosen" for row in rows(site, ledger)) == 1


def test_a_study_is_of_whom_the_chosen_copy_says_where_all_its_images_do(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    """An examination under the wrong patient is corrected at the modality and sent again under its UIDs."""
    wrong = [radiograph(PatientID="WRONG", PatientName="Wrong^One", AccessionNumber="W1")]
    wrong.append(
        radiograph(
            PatientID="WRONG",
            PatientName="Wrong^One",
            AccessionNumber="W1",
            **{name: wrong[0][name].value for name in ("StudyInstanceUID", "SeriesInstanceUID")},
        )
    )
    send(gateway, *wrong)
    uid = wrong[0].StudyInstanceUID
    right = [radiograph(**same_uids(one) | {"PatientID": "RIGHT", "AccessionNumber": "R1"}) for one in wrong]
    send(gateway, *right)
    assert Receiving(site, AT_ONCE).complete() == 1

    keep(site, wrong[0].SOPInstanceUID, "last")
    assert worklist.one(site, uid).line.patient_id == "WRONG"  # one image of each
    refused = read(site)
    assert isinstance(refused, Refused)
    assert refused.reasons[0].code == "patient-mismatch"

    done = keep(site, uid, "last")
    assert (done.chosen, done.before) == (1, 1)
    line = worklist.one(site, uid).line
    assert (line.patient_id, line.accession) == ("RIGHT", "R1")
    assert {row.patient_id for row in rows(site, patient)} == {"WRONG", "RIGHT"}
    result = read(site)
    assert isinstance(result, Scored)
    assert result.finding.source.PatientID == "RIGHT"


def test_one_uid_in_two_studies(site: Site, gateway: Gateway, radiograph: Make) -> None:
    first = radiograph(0.2)
    other = radiograph(0.9, SOPInstanceUID=first.SOPInstanceUID)
    send(gateway, first)
    send(gateway, other)
    assert Receiving(site, AT_ONCE).complete() == 2
    results = {type(read(site)) for _ in range(2)}
    assert results == {Scored, Refused}
    assert [len(clash.studies) for clash in listed(site)] == [2]

    done = keep(site, other.StudyInstanceUID, "last")

    assert {one.study_uid for one in done.studies} == {first.StudyInstanceUID, other.StudyInstanceUID}
    for _ in range(2):
        read(site)
    assert state(site, first.StudyInstanceUID) == ("refused", 2)
    assert state(site, other.StudyInstanceUID) == ("scored", 2)


def test_the_commands_say_what_there_is_and_what_they_do(
    site: Site, gateway: Gateway, radiograph: Make, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["site", "conflicts", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    where = ("--folder", str(site.folder))
    assert run(*where).startswith("none")
    first = radiograph(0.2)
    first.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    jpeg_xl = radiograph(0.2, **same_uids(first))
    jpeg_xl.file_meta.TransferSyntaxUID = JPEG_XL
    jpeg_xl.PixelData = encapsulate([b"\xff\x0a" + bytes(30)])
    jpeg_xl["PixelData"].VR = "OB"
    lossless = dcmread(tmp_path / "one.dcm")
    lossless.PatientName, lossless.InstitutionName = "Other^Name", "Elsewhere"
    compress(lossless, JPEGLSLossless, generate_instance_uid=False)
    send(gateway, jpeg_xl)
    send(gateway, lossless, title="PACS")
    uid, sop = first.StudyInstanceUID, first.SOPInstanceUID

    said = run(*where, "--of", first.AccessionNumber)

    assert f"study {uid}  accession {first.AccessionNumber}  receiving" in said
    assert f"image {sop}  nobody has said which copy stands" in said
    assert re.search(r"[0-9a-f]{12}  stands  \S+ \S+  MODALITY .* bytes  unsupported-transfer-syntax\n", said)
    assert re.search(r"[0-9a-f]{12}  apart   \S+ \S+  PACS .* bytes  decodes\n", said)
    assert "differs from the first in InstitutionName, PatientName, PixelData" in said
    assert "Other" not in said
    assert "vigie site conflicts keep" in said
    assert run(*where, "--of", generate_uid()).startswith("none")

    assert run("keep", *where, sop, "readable") == f"study {uid} is read when all of it is here\n"
    assert run("keep", *where, sop, "readable") == "1 images stand so already: nothing is changed\n"
    assert run(*where).startswith("none that nobody has settled")
    assert f"image {sop}  settled" in run(*where, "--all")
    assert "Example: vigie site conflicts keep" in run("keep", "--help")
    assert "Example: vigie site conflicts --folder" in run("--help")


def test_a_copy_that_ends_its_decoder_or_never_ends_is_said_and_the_others_are_looked_at(
    tmp_path: Path, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path in paths:
        radiograph().save_as(path, enforce_file_format=True)
    answers = copies._answers

    def falls(images: Any) -> Any:
        """As where the process ends at the second one."""
        return [] if images[0][0] == paths[1] else answers(images[:1])

    monkeypatch.setattr(copies, "_answers", falls)
    found = copies.look([[path] for path in paths])
    assert [[one.problem for one in looked] for looked in found] == [[""], ["ends-the-decoder"], [""]]
    monkeypatch.undo()
    monkeypatch.setattr(copies, "_SECONDS", 0.0)
    assert copies.look([[paths[0]]]) == [[copies.Looked("ends-the-decoder")]]
