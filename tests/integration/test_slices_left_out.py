"""A series that lost slices to a rejection is not read as a whole one, and what was found in it stays to be read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.arrival.exclusions import leave_out
from client.arrival.gateway import Gateway
from client.arrival.rejection import Cause
from client.review import readers, worklist
from client.store.site import Site
from tests.integration.test_another_patient import all_sent
from tests.integration.test_beside import adopt
from tests.integration.test_regrown import arrive, last, read, read_all

pytestmark = pytest.mark.integration
SLICES = 14


@pytest.fixture
def site(make_site: Callable[..., Site], volumes: Any, vendor_key: Any, tmp_path: Path) -> Site:
    made = make_site(adopted=False)
    adopt(made, volumes.build(tmp_path / "volume", vendor_key))
    readers.add(made, "Ada", "clinician")
    return made


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


def to_read(site: Site) -> list[str]:
    return [one.uid for one in worklist.page(site, status="to_read")]


@pytest.mark.parametrize("which", ["shown", "inner", "end"])
def test_a_finding_stays_to_be_read_whichever_slice_of_it_is_rejected(
    site: Site, gateway: Gateway, volumes: Any, which: str
) -> None:
    images = volumes.series(count=SLICES, shape=(48, 48))
    arrive(site, gateway, images)
    uid = read(site)
    found = last(site, uid)
    assert found.positive
    all_sent(site)
    others = [str(image.SOPInstanceUID) for image in images if image.SOPInstanceUID != found.sop_uid]

    leave_out(site, {"shown": found.sop_uid, "inner": others[SLICES // 2], "end": others[-1]}[which], Cause.QUALITY)
    read_all(site)

    now = last(site, uid)
    assert now.kind == "refused"
    assert "left-out" in {reason["code"] for reason in now.reasons}
    assert (to_read(site), worklist.next_uid(site)) == ([uid], uid)


def test_a_rejection_that_was_there_before_the_reading_leaves_no_all_clear(
    site: Site, gateway: Gateway, volumes: Any
) -> None:
    images = volumes.series(count=SLICES, shape=(48, 48))
    arrive(site, gateway, images[:-4])
    for image in images[-4:]:
        arrive(site, gateway, [image])
        leave_out(site, str(image.SOPInstanceUID), Cause.SAFETY)
    read_all(site)
    assert last(site, str(images[0].StudyInstanceUID)).kind == "refused"


@pytest.mark.parametrize("how", ["taken again", "another patient's"])
def test_a_series_is_whole_where_the_place_is_shown_or_the_slice_was_none_of_it(
    site: Site, gateway: Gateway, volumes: Any, how: str
) -> None:
    images = volumes.series(count=SLICES, shape=(48, 48))
    bad = volumes.series(count=SLICES, shape=(48, 48))[3]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(bad, keyword, images[0].get(keyword))
    if how == "another patient's":
        x, y, z = images[-1].ImagePositionPatient
        bad.ImagePositionPatient = [x, y, z + 500]
    arrive(site, gateway, [*images, bad])
    leave_out(site, str(bad.SOPInstanceUID), Cause.QUALITY if how == "taken again" else Cause.OTHER_PATIENT)
    read_all(site)
    now = last(site, str(images[0].StudyInstanceUID))
    assert (now.kind, now.reasons) == ("scored", [])
