"""A key object selection from anywhere is read, or is none: whatever its bytes are, the door stays open."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from client.arrival.rejection import Cause, rejection
from tests.integration.test_conflicts import Make
from tests.integration.test_rejections import rejecting


@pytest.fixture(scope="module")
def document(radiograph: Make) -> tuple[str, bytes]:
    image = radiograph()
    buffer = io.BytesIO()
    rejecting(image, radiograph()).save_as(buffer, enforce_file_format=True)
    return str(image.StudyInstanceUID), buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rejection") / "one.dcm"


def test_only_what_it_says_of_its_own_study_is_taken(document: tuple[str, bytes], place: Path) -> None:
    uid, content = document
    place.write_bytes(content)
    found = rejection(place, uid)
    assert found is not None
    assert (found.cause, len(found.images), found.elsewhere) == (Cause.QUALITY, 1, 1)
    of_nobody = rejection(place, generate_uid())
    assert of_nobody is not None
    assert not of_nobody.images


@given(st.data())
def test_no_bytes_end_it(document: tuple[str, bytes], place: Path, data: st.DataObject) -> None:
    uid, content = document
    changed = bytearray(content)
    for at in data.draw(st.lists(st.integers(132, len(content) - 1), max_size=6)):
        changed[at] = data.draw(st.integers(0, 255))
    place.write_bytes(bytes(changed[: data.draw(st.integers(0, len(content)))]))
    found = rejection(place, uid)
    assert found is None or len(found.images) <= 2
