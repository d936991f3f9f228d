"""Growth since a study that turns out to be another patient's does not stand in a later study's report."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from sqlalchemy import select

from client.arrival.completeness import Bounds
from client.arrival.exclusions import leave_out, take_back
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.arrival.rejection import Cause
from client.inference import outcomes
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline
from client.inference.priors import earlier
from client.inference.refusals import Refusals
from client.inference.tensors import Tensors
from client.review import readers
from client.review.regrown import compared_with
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study
from tests.integration.test_beside import adopt

pytestmark = pytest.mark.integration


def read(site: Site) -> str:
    """The study that is queued is read, with what was measured before."""
    archive, panel = Archive(site.archive), Panel(site).members
    taken = outcomes.take(site)
    assert isinstance(taken, outcomes.Study)
    tensors = Tensors(site.tensors, archive)
    result = Pipeline(archive, tensors, panel, "Hospital", priors=partial(earlier, site)).process(taken)
    make, mark = partial(objects, wanted=site.config.results), Refusals(site, archive, panel).mark
    assert outcomes.conclude(site, archive, taken, result, make, mark)
    return taken.uid


def arrive(site: Site, gateway: Gateway, images: list[Dataset]) -> None:
    entity = AE("MODALITY")
    entity.requested_contexts = [build_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()
    Receiving(site, Bounds(0.0, 0.0, 0.0)).complete()


def read_all(site: Site) -> None:
    queued = select(study.c.uid).where(study.c.state == "queued")
    while True:
        with site.database.read() as connection:
            if connection.execute(queued).first() is None:
                return
        read(site)


def growth(result: Any) -> list[Any]:
    return [label["growth"] for series in result.measurements["series"] for label in series["labels"]]


def last(site: Site, uid: str) -> Any:
    query = select(outcome).where(outcome.c.study_uid == uid).order_by(outcome.c.revision.desc())
    with site.database.read() as connection:
        return connection.execute(query).first()


def waiting(site: Site, outcome_id: int) -> set[str]:
    query = select(delivery.c.state).where(delivery.c.outcome_id == outcome_id)
    with site.database.read() as connection:
        return set(connection.execute(query).scalars())


@pytest.mark.parametrize("how", ["left out", "rejected"])
def test_growth_since_what_proves_to_be_another_patients_is_held_back_and_measured_again(
    make_site: Callable[..., Site], volumes: Any, vendor_key: Any, tmp_path: Path, how: str
) -> None:
    site = make_site(adopted=False)
    adopt(site, volumes.build(tmp_path / "volume", vendor_key))
    readers.add(site, "Ada", "clinician")
    gateway = Gateway(site)
    small = {"count": 14, "shape": (48, 48)}
    before = volumes.series(**small, size=0.8, StudyDate="20230101")
    now = volumes.series(**small, StudyDate="20230411")
    for images in (before, now):
        arrive(site, gateway, images)
        read(site)
    gateway.close()
    old, new = str(before[0].StudyInstanceUID), str(now[0].StudyInstanceUID)
    first = last(site, new)
    assert (compared_with(first.measurements), waiting(site, first.id)) == ({old}, {"pending"})

    if how == "left out":
        leave_out(site, old, Cause.OTHER_PATIENT)
        assert waiting(site, first.id) == {"failed"}  # at once, before the earlier study is read without them
        assert read(site) == old
    else:
        words: dict[str, Any] = {"decision": Decision.REJECT, "reason": Reason.WRONG_PATIENT}
        record(site, old, "Ada", revision=1, answer=Answer.NEGATIVE, tier=TruthTier.AI_VISIBLE, **words)
        assert waiting(site, first.id) == {"failed"}
    assert read(site) == new
    again = last(site, new)
    assert (again.revision, compared_with(again.measurements)) == (2, set())
    assert (waiting(site, first.id), waiting(site, again.id)) == ({"dropped"}, {"pending"})


@pytest.mark.parametrize("how", ["amended", "taken back at once", "taken back after it was read"])
def test_growth_follows_what_it_was_measured_against(
    make_site: Callable[..., Site], volumes: Any, vendor_key: Any, tmp_path: Path, how: str
) -> None:
    site = make_site(adopted=False)
    adopt(site, volumes.build(tmp_path / "volume", vendor_key))
    gateway = Gateway(site)
    small = {"count": 14, "shape": (48, 48)}
    before = volumes.series(**small, size=0.8, StudyDate="20230101")
    old = str(before[0].StudyInstanceUID)
    more = volumes.series(**small, size=1.2, StudyDate="20230101", StudyInstanceUID=old)
    now = volumes.series(**small, StudyDate="20230411")
    new = str(now[0].StudyInstanceUID)
    for images in (before, now):
        arrive(site, gateway, images)
        read(site)
    first = last(site, new)
    (grown,) = growth(first)

    if how == "amended":
        arrive(site, gateway, more)
    else:
        leave_out(site, old, Cause.OTHER_PATIENT)
        if how == "taken back after it was read":
            read_all(site)
            assert growth(last(site, new)) == [None]
        take_back(site, old)
    read_all(site)
    gateway.close()

    again = last(site, new)
    (since,) = growth(again)
    assert (compared_with(again.measurements), waiting(site, again.id)) == ({old}, {"pending"})
    assert again.revision > first.revision
    assert waiting(site, first.id) == {"dropped"}
    if how == "amended":
        assert since["percent"] < 0 < grown["percent"]  # the larger of the earlier ones was larger than this one
    else:
        assert since["percent"] == pytest.approx(grown["percent"])
