"""Bad files end as a failure status or as a refused study; the good study beside them is scored all the same."""

import socket
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from sqlalchemy import select

from client.arrival.gateway import Gateway
from client.arrival.intake import STATUS
from client.dicom import decode
from client.inference.scope import Acquisition, OutOfScope, check
from client.store.site import Site
from client.store.tables import instance, outcome
from models.errors import InvalidStudy

Make = Callable[..., Dataset]
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def encoded(dataset: Dataset) -> bytes:
    """The dataset as it goes over the wire, without file meta."""
    encoding = encode(dataset, is_implicit_vr=False, is_little_endian=True)
    assert encoding is not None
    return encoding


def send_bytes(port: int, content: bytes, syntax: str = ExplicitVRLittleEndian, sop_uid: str = "") -> int | None:
    """C-STORE exactly these bytes, as a peer could; the status, None where the peer was cut off."""
    from io import BytesIO

    entity = AE("HOSTILE")
    entity.add_requested_context(DX, syntax)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = UID(DX)
    request.AffectedSOPInstanceUID = UID(sop_uid or generate_uid(prefix=None))
    request.Priority = 2
    request.DataSet = BytesIO(content)
    association._reactor_checkpoint.clear()  # or its own thread takes the answer
    while not association._is_paused:
        time.sleep(0.01)
    association.dimse.send_msg(request, next(iter(association._accepted_cx)))
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    if association.is_established:
        association.release()
    return getattr(response, "Status", None)


def nested(depth: int) -> bytes:
    """A sequence in a sequence in a sequence…, undefined lengths."""
    opening = bytes.fromhex("0800151153510000ffffffff") + bytes.fromhex("feff00e0ffffffff")
    return opening * depth


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


@pytest.mark.parametrize(
    "content",
    [
        b"Dear radiologist, this is a text file.\n" * 100,
        b"\0" * 1000,
        b"\xff" * 1000,
        b"\x08\x00\x18\x00UI\xff\xff",
        b"\x08",
        nested(3000),
        bytes(range(256)) * 16,
    ],
    ids=["text", "zeros", "ones", "length-beyond-end", "one-byte", "nested", "counting"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_garbage_over_the_wire_is_answered_with_a_failure_and_leaves_nothing(
    site: Site, gateway: Gateway, content: bytes, syntax: str
) -> None:
    assert send_bytes(gateway.port, content, syntax) in {STATUS["not-dicom"], STATUS["uid-missing"]}
    assert list(site.archive.glob("*/*")) == []
    with site.database.read() as connection:
        assert connection.execute(select(instance)).all() == []


def test_a_dataset_that_is_not_the_one_announced_is_refused(gateway: Gateway, radiograph: Make) -> None:
    assert send_bytes(gateway.port, encoded(radiograph()), sop_uid="1.2.3.4") == STATUS["uid-mismatch"]


def test_file_meta_smuggled_into_a_dataset_is_refused(site: Site, gateway: Gateway, radiograph: Make) -> None:
    """It would be read back as the file's own meta, and the pixels by another transfer syntax than was negotiated."""
    image = radiograph()
    meta = encoded(Dataset({element.tag: element for element in image.file_meta}))
    smuggled = meta + encoded(image)
    assert send_bytes(gateway.port, smuggled, JPEG2000Lossless, str(image.SOPInstanceUID)) == STATUS["not-dicom"]
    assert list(site.archive.glob("*/*")) == []


def test_a_deflate_bomb_does_not_fill_the_memory(gateway: Gateway, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.arrival import intake as module

    monkeypatch.setattr(module, "MAX_INFLATED", 1 << 20)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * (64 << 20)) + deflater.flush()
    assert send_bytes(gateway.port, bomb, DeflatedExplicitVRLittleEndian) == STATUS["too-large"]
    assert list(site.archive.glob("*/*")) == []


def test_noise_on_the_port_does_not_close_the_door(gateway: Gateway, radiograph: Make) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\0" * 4096, b""):
        with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
            peer.sendall(noise)
    image = radiograph()
    assert send_bytes(gateway.port, encoded(image), sop_uid=image.SOPInstanceUID) == 0


def test_bad_studies_are_refused_and_the_good_one_beside_them_is_scored(
    site: Site,
    run_node: Callable[..., Any],
    radiograph: Make,
    eventually: Callable[..., Any],
) -> None:
    node = run_node(site)
    bad: dict[str, tuple[Dataset, str, str]] = {
        "no-pixels": (radiograph(PixelData=None), ExplicitVRLittleEndian, "no-pixels"),
        "truncated": (radiograph(PixelData=b"\0" * 100), ExplicitVRLittleEndian, "truncated"),
        "huge": (radiograph(Rows=65535, Columns=65535), ExplicitVRLittleEndian, "size"),
        "colour": (
            radiograph(PhotometricInterpretation="RGB", SamplesPerPixel=3),
            ExplicitVRLittleEndian,
            "colour",
        ),
        "frames": (radiograph(NumberOfFrames=2), ExplicitVRLittleEndian, "multi-frame"),
        "wrong-syntax": (radiograph(), JPEG2000Lossless, "inconsistent"),
        "wrong-syntax-jpeg": (radiograph(), JPEGBaseline8Bit, "inconsistent"),
    }
    good = radiograph(0.8)
    uids = {name: str(dataset.StudyInstanceUID) for name, (dataset, _, _) in bad.items()}
    for dataset, syntax, _ in bad.values():
        status = send_bytes(node.dicom_port, encoded(dataset), syntax, str(dataset.SOPInstanceUID))
        assert status == 0
    assert send_bytes(node.dicom_port, encoded(good), sop_uid=str(good.SOPInstanceUID)) == 0
    assert send_bytes(node.dicom_port, b"not a dataset") in {STATUS["not-dicom"], STATUS["uid-missing"]}

    def concluded() -> dict[str, Any]:
        with site.database.read() as connection:
            return {row.study_uid: row for row in connection.execute(select(outcome)).all()}

    eventually(lambda: len(concluded()) == len(bad) + 1)
    found = concluded()
    assert found[str(good.StudyInstanceUID)].kind == "scored"
    for name, (_, _, reason) in bad.items():
        row = found[uids[name]]
        codes = [found_reason["code"] for found_reason in row.reasons]
        assert (name, row.kind, codes) == (name, "refused", [reason])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Dear radiologist", "not-dicom"),
        (b"", "not-dicom"),
        (b"\0" * 128 + b"DICM", "not-dicom"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 500, "not-dicom"),
    ],
)
def test_a_file_that_is_not_dicom(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    with pytest.raises(InvalidStudy) as caught:
        decode.read(path)
    assert caught.value.reason == reason


def test_a_file_cut_anywhere_is_refused_and_never_crashes(tmp_path: Path, radiograph: Make) -> None:
    whole = tmp_path / "whole.dcm"
    radiograph(rows=16, columns=16).save_as(whole, enforce_file_format=True)
    content, path = whole.read_bytes(), tmp_path / "cut.dcm"
    for end in range(0, len(content) - 1, 7):
        path.write_bytes(content[:end])
        with pytest.raises(InvalidStudy) as caught:
            decode.read(path)
        assert caught.value.reason in decode.REASONS


def test_a_file_with_any_byte_changed_never_crashes(tmp_path: Path, radiograph: Make) -> None:
    whole = tmp_path / "whole.dcm"
    radiograph(rows=8, columns=8).save_as(whole, enforce_file_format=True)
    content, path = bytearray(whole.read_bytes()), tmp_path / "changed.dcm"
    words: set[str] = set()
    for at in range(128, len(content) - 128, 3):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        path.write_bytes(changed)
        try:
            assert decode.read(path).pixels.ndim == 2
            Acquisition.from_dataset(decode.read_header(path))
        except InvalidStudy as error:
            words.add(error.reason)
    assert words <= set(decode.REASONS)


def test_no_reference_file_is_scored_by_a_version_for_adult_chest_radiographs(vigie_data: Path, bundles: Any) -> None:
    """CT, MR and the rest are out of scope; what is in scope and cannot be read is refused (C1)."""
    checked = 0
    for path in sorted((vigie_data / "dicom").glob("*.dcm")):
        checked += 1
        if path.name.startswith("CR__pydicom__chr"):  # CR, CHEST, PA by their headers, but headers is all they are
            with pytest.raises(InvalidStudy, match="no-pixels"):
                decode.read(path)
            continue
        try:
            found = check(bundles.CHEST, Acquisition.from_dataset(decode.read_header(path)))
        except InvalidStudy:
            continue
        assert isinstance(found, OutOfScope), path.name
        if not path.name.startswith(("DX", "CR")):
            assert {"modality", "modality-missing"} & {reason.code for reason in found.reasons}, path.name
    assert checked >= 100
