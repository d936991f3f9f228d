"""DICOMweb as its clients use it: what is stored comes back, found by what was searched, as the Accept header asks."""

import base64
import io
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid
from sqlalchemy import insert, select

from client.dicom import decode
from client.review import readers
from client.store.site import Site
from client.store.tables import instance, study
from models.children import free_port

Make = Callable[..., Dataset]
Scored = Callable[..., str]


@pytest.fixture
def dicomweb(served: str) -> str:
    """URL of the service."""
    return f"{served}/dicomweb"


@pytest.fixture
def viewer(site: Site, dicomweb: str) -> Iterator[httpx.Client]:
    token = readers.add(site, "Ada Lovelace", "clinician")
    with httpx.Client(base_url=dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        yield client


@pytest.fixture
def device(site: Site, dicomweb: str) -> Iterator[httpx.Client]:
    token = readers.add(site, "CT-1", "device")
    with httpx.Client(base_url=dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        yield client


def part10(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def body_of(*files: bytes) -> bytes:
    parts = b"".join(b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return parts + b"--cut--"


STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=cut'}


def store(device: httpx.Client, *datasets: Dataset, path: str = "/studies") -> httpx.Response:
    return device.post(path, headers=STOW, content=body_of(*map(part10, datasets)))


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    boundary = answer.headers["content-type"].rpartition("boundary=")[2].strip('"').encode()
    pieces = answer.content.split(b"--" + boundary)
    assert pieces[0].strip() == b""
    assert pieces[-1].strip() == b"--"
    found: list[tuple[str, bytes]] = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        [media] = [line[14:] for line in head.decode().split("\r\n") if line.startswith("Content-Type: ")]
        found.append((media, content.removesuffix(b"\r\n")))
    return found


def at(dataset: Dataset) -> str:
    return f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"


def value(found: dict[str, Any], tag: str) -> Any:
    return found[tag]["Value"][0]


# ---------------------------------------------------------------- STOW-RS


def test_what_is_stored_comes_back_as_it_was(device: httpx.Client, viewer: httpx.Client, radiograph: Make) -> None:
    image = radiograph()
    answer = store(device, image)
    assert answer.status_code == 200
    [kept] = answer.json()["00081199"]["Value"]
    assert value(kept, "00081155") == image.SOPInstanceUID
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    [(media, content)] = parts_of(viewer.get(value(kept, "00081190"), headers=accept))
    assert media == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    back = pydicom.dcmread(io.BytesIO(content))
    assert back == image
    single = viewer.get(at(image), headers={"Accept": "application/dicom; transfer-syntax=*", "Range": "bytes=128-131"})
    assert (single.status_code, single.content) == (206, b"DICM")


def test_stored_twice_is_one_and_by_either_door(
    device: httpx.Client, site: Site, radiograph: Make, viewer: httpx.Client
) -> None:
    image = radiograph()
    assert [store(device, image).status_code for _ in range(2)] == [200, 200]
    assert len(list(site.archive.glob("*/*.dcm"))) == 1
    [found] = viewer.get("/studies").json()
    assert value(found, "00201208") == 1


def test_other_content_under_the_same_uid_is_never_served(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make
) -> None:
    first = radiograph(0.2)
    keep = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    other = radiograph(0.9, **{name: first.get(name) for name in keep})
    assert store(device, first, other).status_code == 200
    assert value(viewer.get("/studies").json()[0], "00201208") == 1
    assert len(viewer.get(f"/studies/{first.StudyInstanceUID}/metadata").json()) == 1
    frame = viewer.get(f"{at(first)}/frames/1", headers={"Accept": "application/octet-stream"})
    assert frame.content == first.PixelData


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda file: b"no DICOM at all", 409),
        (lambda file: file[:140], 409),
        (lambda file: file[:132] + file[400:], 409),
    ],
)
def test_what_is_no_instance_fails_and_the_others_are_kept(
    device: httpx.Client, viewer: httpx.Client, site: Site, radiograph: Make, spoil: Any, status: int
) -> None:
    bad = spoil(part10(radiograph()))
    answer = device.post("/studies", headers=STOW, content=body_of(bad))
    assert (answer.status_code, len(answer.json()["00081198"]["Value"])) == (status, 1)
    assert list(site.archive.glob("*/*")) == []
    good = radiograph()
    answer = device.post("/studies", headers=STOW, content=body_of(bad, part10(good)))
    assert answer.status_code == 202
    assert viewer.get(f"{at(good)}/metadata").status_code == 200


def test_half_a_body_keeps_what_came_whole(device: httpx.Client, viewer: httpx.Client, radiograph: Make) -> None:
    first, second = radiograph(), radiograph()
    whole = body_of(part10(first), part10(second))
    answer = device.post("/studies", headers=STOW, content=whole[:-200])
    assert answer.status_code == 400
    [kept] = answer.json()["00081199"]["Value"]
    assert value(kept, "00081155") == first.SOPInstanceUID
    assert viewer.get(f"{at(second)}/metadata").status_code == 404
    assert store(device, first, second).status_code == 200
    assert len(viewer.get("/studies").json()) == 2


def test_a_connection_that_breaks_loses_nothing_that_was_whole(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make, eventually: Callable[..., Any]
) -> None:
    first, second = radiograph(), radiograph()
    body = body_of(part10(first), part10(second))
    address = device.base_url.host, device.base_url.port
    head = (
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: here\r\nAuthorization: {device.headers['authorization']}\r\n"
        f"Content-Type: {STOW['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + body[:-500])
        eventually(lambda: viewer.get(f"{at(first)}/metadata").status_code == 200)
    assert viewer.get(f"{at(second)}/metadata").status_code == 404
    assert store(device, first, second).status_code == 200


def test_an_instance_of_another_study_is_refused(device: httpx.Client, radiograph: Make) -> None:
    image = radiograph()
    answer = store(device, image, path="/studies/1.2.3")
    assert answer.status_code == 409
    [failed] = answer.json()["00081198"]["Value"]
    assert value(failed, "00081197") == 0xA900
    assert store(device, image, path=f"/studies/{image.StudyInstanceUID}").status_code == 200


def test_a_part_that_is_too_large_is_refused(
    device: httpx.Client, site: Site, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.dicomweb import stow

    monkeypatch.setattr(stow, "LARGEST_INSTANCE", 4096)
    assert store(device, radiograph()).status_code == 413
    assert list(site.archive.glob("*/*")) == []


def test_a_full_disk_is_said(device: httpx.Client, radiograph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = store(device, radiograph())
    assert answer.status_code == 503
    assert value(answer.json()["00081198"]["Value"][0], "00081197") == 0xA700


def test_bodies_that_are_none(device: httpx.Client) -> None:
    for media, status in [
        ("application/dicom", 415),
        ('multipart/related; type="application/dicom+json"; boundary=cut', 415),
        ('multipart/related; type="application/dicom"', 400),
    ]:
        assert device.post("/studies", headers={"Content-Type": media}, content=b"x").status_code == status
    for body in (b"", b"--cut--", b"--cut\r\n", b"x" * 100_000):
        assert device.post("/studies", headers=STOW, content=body).status_code == 400


# ---------------------------------------------------------------- who may


def test_a_device_only_stores_and_a_reader_only_reads(
    device: httpx.Client, viewer: httpx.Client, served: str, site: Site, radiograph: Make
) -> None:
    assert store(viewer, radiograph()).status_code == 403
    assert device.get("/studies").status_code == 403
    assert device.get(f"{served}/api/studies").status_code == 403
    operator = {"Authorization": f"Bearer {readers.add(site, 'Olga', 'operator')}"}
    assert httpx.get(f"{served}/dicomweb/studies", headers=operator).status_code == 403
    for header in ({}, {"Authorization": "Bearer guess"}):
        assert httpx.get(f"{served}/dicomweb/studies", headers=header).status_code == 401
        assert httpx.post(f"{served}/dicomweb/studies", headers=header | STOW, content=b"").status_code == 401


def test_a_session_reads_from_the_own_pages_alone(
    device: httpx.Client, served: str, site: Site, radiograph: Make
) -> None:
    store(device, radiograph())
    with httpx.Client(base_url=served) as browser:
        token = readers.add(site, "Grace", "clinician")
        browser.post("/login", data={"token": token})
        assert len(browser.get("/dicomweb/studies").json()) == 1
        assert browser.get("/dicomweb/studies", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 401
        assert browser.post("/dicomweb/studies", headers=STOW, content=body_of()).status_code == 401
    with httpx.Client(base_url=served) as browser:
        assert browser.post("/login", data={"token": readers.add(site, "CT-2", "device")}).status_code == 403
        assert browser.get("/").status_code == 303
        assert browser.get("/dicomweb/studies").status_code == 401


# ---------------------------------------------------------------- QIDO-RS


def test_studies_are_found_by_what_they_are(device: httpx.Client, viewer: httpx.Client, radiograph: Make) -> None:
    anna = radiograph(
        PatientName="Müller^Anna", SpecificCharacterSet="ISO_IR 192", StudyDate="20240110", PatientID="A1"
    )
    bert = radiograph(PatientName="Berg^Bert", StudyDate="20240220", StudyDescription="Thorax pa", Modality="CR")
    store(device, anna, bert)
    both = [bert.StudyInstanceUID, anna.StudyInstanceUID]  # the newest first

    def found(**wanted: str) -> list[str]:
        answer = viewer.get("/studies", params=wanted)
        assert answer.status_code == 200
        return [value(one, "0020000D") for one in answer.json()]

    assert found() == both
    for wanted, expected in [
        ({"PatientName": "*müller*"}, both[1:]),
        ({"00100010": "BERG*"}, both[:1]),
        ({"PatientName": "Berg"}, []),
        ({"StudyDate": "20240101-20240131"}, both[1:]),
        ({"StudyDate": "20240110-"}, both),
        ({"StudyDate": "-20240110"}, both[1:]),
        ({"ModalitiesInStudy": "CR"}, both[:1]),
        ({"PatientID": "A1"}, both[1:]),
        ({"StudyDescription": "*pa*"}, both[:1]),
        ({"StudyInstanceUID": ",".join(both)}, both),
        ({"StudyInstanceUID": both[1]}, both[1:]),
        ({"limit": "1"}, both[:1]),
        ({"limit": "1", "offset": "1"}, both[1:]),
        ({"PatientID": ""}, both),
        ({"AccessionNumber": "none"}, []),
    ]:
        assert found(**wanted) == expected, wanted
    partial = viewer.get("/studies", params={"limit": "1", "fuzzymatching": "true"})
    assert len(partial.headers.get_list("warning")) == 2
    for bad in ({"Nonsense": "1"}, {"limit": "-1"}, {"limit": "x"}, {"fuzzymatching": "maybe"}, {"PixelData": "1"}):
        assert viewer.get("/studies", params=bad).status_code == 400, bad
    assert viewer.get("/studies", headers={"Accept": "application/dicom+xml"}).status_code == 406


def test_series_and_instances_say_what_a_viewer_asks(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make
) -> None:
    first = radiograph(InstanceNumber=1, SeriesDescription="PA")
    same = {"StudyInstanceUID": first.StudyInstanceUID, "SeriesInstanceUID": first.SeriesInstanceUID}
    second = radiograph(InstanceNumber=2, SeriesDescription="PA", **same)
    lateral = radiograph(StudyInstanceUID=first.StudyInstanceUID, SeriesDescription="LAT", SeriesNumber=2)
    store(device, first, second, lateral, radiograph())
    [listed] = viewer.get("/studies", params={"StudyInstanceUID": first.StudyInstanceUID}).json()
    assert (value(listed, "00201206"), value(listed, "00201208")) == (2, 3)
    series = viewer.get(
        f"/studies/{first.StudyInstanceUID}/series", params={"includefield": "0008103E,00080021"}
    ).json()
    assert [(value(one, "0008103E"), value(one, "00201209")) for one in series] == [("PA", 2), ("LAT", 1)]
    assert len(viewer.get("/series", params={"SeriesDescription": "LAT"}).json()) == 1
    one = viewer.get(f"/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}/instances").json()
    assert [(value(item, "00200013"), value(item, "00280010")) for item in one] == [(1, 64), (2, 64)]
    named = viewer.get("/instances", params={"SOPInstanceUID": second.SOPInstanceUID}).json()
    assert [value(item, "0020000D") for item in named] == [first.StudyInstanceUID]
    assert viewer.get("/studies/1.2.3/series").json() == []


def test_the_result_stands_beside_the_image(viewer: httpx.Client, scored: Scored) -> None:
    uid = scored(objects=True)
    [listed] = viewer.get("/studies").json()
    assert set(listed["00080061"]["Value"]) >= {"SR"}
    series = viewer.get(f"/studies/{uid}/series").json()
    assert "SR" in {value(one, "00080060") for one in series}
    for header in viewer.get(f"/studies/{uid}/metadata").json():
        place = "/".join(
            ("", "studies", uid, "series", value(header, "0020000E"), "instances", value(header, "00080018"))
        )
        [(_media, content)] = parts_of(
            viewer.get(place, headers={"Accept": "multipart/related; type=application/dicom"})
        )
        assert pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID == value(header, "00080018")


def test_two_thousand_studies_are_listed_in_one_answer(
    viewer: httpx.Client, device: httpx.Client, site: Site, radiograph: Make
) -> None:
    first = radiograph()
    store(device, first)
    with site.database.write() as connection:
        row = connection.execute(select(instance)).mappings().one()
        opened = connection.execute(select(study)).mappings().one()
        uids = [str(generate_uid(prefix=None)) for _ in range(2000)]
        connection.execute(insert(study), [dict(opened) | {"uid": uid} for uid in uids])
        fresh = [dict(row) | {"id": None, "sop_uid": uid, "study_uid": uid, "series_uid": uid} for uid in uids]
        connection.execute(insert(instance), fresh)
    viewer.get("/studies")
    assert len(viewer.get("/studies", params={"PatientName": "*TEST*", "limit": "2000"}).json()) == 2000


# ---------------------------------------------------------------- WADO-RS


def test_metadata_names_pixels_and_never_holds_them(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make
) -> None:
    image = radiograph()
    image.add_new(0x00091001, "OB", bytes(3000))
    image.add_new(0x00090010, "LO", "TESTER")
    store(device, image)
    [header] = viewer.get(f"/studies/{image.StudyInstanceUID}/metadata").json()
    assert value(header, "00100010") == {"Alphabetic": "Test^Patient"}
    assert header["7FE00010"].keys() == {"vr", "BulkDataURI"}
    assert viewer.get(header["00091001"]["BulkDataURI"]).content == bytes(3000)
    pixels = header["7FE00010"]["BulkDataURI"]
    assert viewer.get(pixels).content == image.PixelData
    part = viewer.get(pixels, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, image.PixelData[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(image.PixelData)}"
    assert viewer.get(pixels, headers={"Range": "bytes=9999999-"}).status_code == 416
    assert viewer.get(pixels.replace("7FE00010", "00100010")).status_code == 404


@pytest.mark.parametrize(("syntax", "media"), [(JPEGLSLossless, "image/jls"), (RLELossless, "image/dicom-rle")])
def test_frames_come_as_the_accept_header_asks(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make, syntax: str, media: str
) -> None:
    image = radiograph()
    plain = image.PixelData
    image.compress(syntax, generate_instance_uid=False)
    store(device, image)
    frame = f"{at(image)}/frames/1"
    fragment = next(iter(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1)))
    for accept, kind, content in [
        ("", f"{media}; transfer-syntax={syntax}", fragment),
        (f'multipart/related; type="{media}"', f"{media}; transfer-syntax={syntax}", fragment),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            f"application/octet-stream; transfer-syntax={syntax}",
            fragment,
        ),
        (
            'multipart/related; type="application/octet-stream"',
            f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}",
            plain,
        ),
        (
            f"multipart/related; type={media}; q=0.1, multipart/related; type=application/octet-stream;q=0.9",
            f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}",
            plain,
        ),
    ]:
        answer = viewer.get(frame, headers={"Accept": accept or "*/*"})
        assert parts_of(answer) == [(kind, content)], accept
    assert viewer.get(frame, headers={"Accept": "image/gif"}).status_code == 406
    assert viewer.get(f"{at(image)}/frames/2").status_code == 404
    assert viewer.get(f"{at(image)}/frames/0").status_code == 400
    whole = viewer.get(at(image), headers={"Accept": 'multipart/related; type="application/dicom"'})
    [(kind, content)] = parts_of(whole)
    assert kind == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    assert pydicom.dcmread(io.BytesIO(content)).PixelData == plain


def test_frames_of_single_bits_are_cut_where_they_end(
    device: httpx.Client, viewer: httpx.Client, radiograph: Make
) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 5, 7), dtype=np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3}
    image = radiograph(rows=5, columns=7, PixelData=packed, Modality="SEG", **bits)
    store(device, image)
    accept = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
    found = parts_of(viewer.get(f"{at(image)}/frames/3,1", headers=accept))
    for (_media, content), mask in zip(found, (masks[2], masks[0]), strict=True):
        unpacked = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[:35]
        assert (unpacked.reshape(5, 7) == mask).all()


def test_big_endian_comes_in_little_endian(device: httpx.Client, viewer: httpx.Client, radiograph: Make) -> None:
    image = radiograph()
    pixels = image.pixel_array
    swapped = Dataset()
    for element in image:
        swapped[element.tag] = element
    swapped.PixelData = pixels.astype(">u2").tobytes()
    swapped["PixelData"].VR = "OW"
    table = np.arange(256, dtype="<u2")
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.add_new("LUTData", "OW", table.astype(">u2").tobytes())
    item["LUTDescriptor"].VR = "US"
    swapped.VOILUTSequence = [item]
    swapped.file_meta = image.file_meta
    swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, swapped, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert device.post("/studies", headers=STOW, content=body_of(buffer.getvalue())).status_code == 200
    frame = viewer.get(f"{at(image)}/frames/1", headers={"Accept": "application/octet-stream"})
    assert (np.frombuffer(frame.content, "<u2").reshape(64, 48) == pixels).all()
    whole = pydicom.dcmread(io.BytesIO(viewer.get(at(image), headers={"Accept": "application/dicom"}).content))
    assert whole.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (np.frombuffer(whole.PixelData, "<u2").reshape(64, 48) == pixels).all()
    assert whole.VOILUTSequence[0].LUTData == table.tobytes()
    told = viewer.get(f"{at(image)}/metadata", headers={"Accept": "application/dicom+json"}).json()[0]
    (item,) = told["00283010"]["Value"]
    given = item["00283006"]
    found = (
        base64.b64decode(given["InlineBinary"]) if "InlineBinary" in given else viewer.get(given["BulkDataURI"]).content
    )
    assert found == table.tobytes() or table.tobytes() in found


def test_a_picture_is_what_was_asked_for(device: httpx.Client, viewer: httpx.Client, radiograph: Make) -> None:
    ramp = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (32, 1))
    image = radiograph(rows=32, columns=64, PixelData=ramp.tobytes())
    inverted = radiograph(rows=32, columns=64, PixelData=ramp.tobytes(), PhotometricInterpretation="MONOCHROME1")
    store(device, image, inverted)

    def shown(dataset: Dataset, **parameters: str) -> Any:
        answer = viewer.get(f"{at(dataset)}/rendered", params=parameters, headers={"Accept": "image/png"})
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    plain = shown(image)
    assert plain.shape == (32, 64)
    assert (plain[0, 0], plain[0, -1]) == (0, 255)
    assert np.abs(plain.astype(int) + shown(inverted).astype(int) - 255).max() <= 1
    window = shown(image, window="2048,1024,linear")
    assert (window[0, 0], window[0, -1], 100 < window[0, 32] < 160) == (0, 255, True)
    assert np.abs(window.astype(int) + shown(inverted, window="2048,1024,linear").astype(int) - 255).max() <= 1
    dark = {"PixelData": (4095 - ramp // 2).tobytes(), "PhotometricInterpretation": "MONOCHROME1"}
    dark |= {"rows": 32, "columns": 64, "WindowCenter": 2048, "WindowWidth": 4096}
    stored_inverted = radiograph(**dark)
    store(device, stored_inverted)
    scored = decode.present(4095 - ramp // 2, stored_inverted)
    assert np.abs(shown(stored_inverted) - scored * 255 / 4095).max() <= 1, "what is shown is what is scored"
    assert shown(image, viewport="32,100").shape == (16, 32)
    assert (shown(image, viewport="8,8,0,0,8,8") <= 30).all()
    assert shown(image, viewport="64,32,0,0,-64,32")[0, 0] == 255
    for bad in (
        {"window": "1"},
        {"window": "1,0"},
        {"viewport": "0,0"},
        {"viewport": "9,9,60,0,9,9"},
        {"quality": "0"},
    ):
        assert viewer.get(f"{at(image)}/rendered", params=bad).status_code == 400, bad
    small = viewer.get(f"/studies/{image.StudyInstanceUID}/thumbnail")
    assert small.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(small.content)).size) == 256
    assert viewer.get(f"{at(image)}/rendered", headers={"Accept": "image/gif"}).status_code == 406


def test_what_is_not_here_is_not_found(viewer: httpx.Client, device: httpx.Client, radiograph: Make) -> None:
    image = radiograph()
    store(device, image)
    other = f"/studies/1.2.3/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
    for path in ("/studies/1.2.3", "/studies/1.2.3/metadata", "/studies/1.2.3/series/4/metadata", other):
        answer = viewer.get(path)
        assert answer.status_code == 404, path
        assert json.loads(answer.text)["code"] == "not-found"


@pytest.mark.filterwarnings("ignore")  # pydicom's, of what is wrong with them; a node silences them
def test_real_files_of_many_makers_are_served(
    device: httpx.Client, viewer: httpx.Client, vigie_data: Path, site: Site
) -> None:
    """Whatever a file is like: what is kept is listed, described, sent as it is, and drawn or refused, and no more."""
    contents = [path.read_bytes() for path in sorted((vigie_data / "dicom").glob("*.dcm")) if path.stat().st_size < 6e5]
    answer = device.post("/studies", headers=STOW, content=body_of(*contents))
    assert answer.status_code in (200, 202)
    kept, failed = (answer.json().get(tag, {}).get("Value", []) for tag in ("00081199", "00081198"))
    assert len(kept) + len(failed) == len(contents)
    assert len(kept) > 100
    listed = {value(one, "00080018") for one in viewer.get("/instances").json()}
    assert listed == {value(one, "00081155") for one in kept}
    drawn = decoded = 0
    with site.database.read() as connection:
        rows = connection.execute(select(instance).where(~instance.c.conflicting)).all()
    for row in rows:
        place = f"/studies/{row.study_uid}/series/{row.series_uid}/instances/{row.sop_uid}"
        [header] = viewer.get(f"{place}/metadata").json()
        assert value(header, "00080018") == row.sop_uid
        stored = site.archive / row.sha256[:2] / f"{row.sha256}.dcm"
        whole = viewer.get(place, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert whole.content == stored.read_bytes()
        status = viewer.get(f"{place}/thumbnail").status_code
        assert status in (200, 404, 406), place
        drawn += status == 200
        if "7FE00010" not in header:
            continue
        frame = viewer.get(f"{place}/frames/1", headers={"Accept": "application/octet-stream"})
        assert frame.status_code in (200, 406), frame.text
        if frame.status_code == 200 and header["00280100"]["Value"] != [1]:
            dataset = pydicom.dcmread(stored)
            if "PixelData" not in dataset:
                continue  # pydicom gives up a value that breaks off, also where its first frame is whole
            if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                if dataset.file_meta.TransferSyntaxUID != ExplicitVRBigEndian:
                    assert dataset.PixelData.startswith(frame.content)
                continue
            expected = pydicom.pixels.pixel_array(dataset, index=0)
            found = np.frombuffer(frame.content, expected.dtype.newbyteorder("<"))
            assert (found == expected.ravel()).all(), dataset.file_meta.TransferSyntaxUID.name
            decoded += 1
    assert drawn > 80
    assert decoded > 20


# ---------------------------------------------------------------- with others


@pytest.mark.peers("Orthanc")
def test_orthanc_stores_here_and_finds_the_same(
    dicomweb: str, site: Site, viewer: httpx.Client, radiograph: Make, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    """Orthanc's DICOMweb client sends; its server and ours then answer the same searches alike."""
    plugin = next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so"), None)
    if plugin is None:
        missing = pytest.fail if os.environ.get("VIGIE_REQUIRE_PEERS") == "1" else pytest.skip
        missing("orthanc-dicomweb is not installed: scripts/install --peers")
    ports = free_port(), free_port()
    here = {
        "Url": f"{dicomweb}/",
        "HttpHeaders": {"Authorization": f"Bearer {readers.add(site, 'Orthanc', 'device')}"},
    }
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Servers": {"here": here}},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    images = [
        radiograph(PatientName=name, StudyDate=day) for name, day in (("Berg^A", "20240101"), ("Tal^B", "20250101"))
    ]
    same = ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate")
    images.append(radiograph(**{name: images[0].get(name) for name in same}))
    with (tmp_path / "orthanc.log").open("wb") as log:
        orthanc = subprocess.Popen(["/usr/sbin/Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=30) as other:

            def ready() -> bool:
                try:
                    return other.get("/system").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(ready)
            resources = [other.post("/instances", content=part10(image)).json()["ID"] for image in images]
            sent = other.post("/dicom-web/servers/here/stow", json={"Resources": resources, "Synchronous": True})
            assert sent.status_code == 200, sent.text
            assert len(viewer.get("/instances").json()) == 3
            for wanted in (
                {},
                {"PatientID": images[0].PatientID},
                {"StudyDate": "20241231-"},
                {"ModalitiesInStudy": "DX"},
            ):
                answers = [
                    client.get(f"{root}/studies", params=wanted).json()
                    for client, root in ((viewer, ""), (other, "/dicom-web"))
                ]
                ours, theirs = (
                    {
                        value(one, "0020000D"): {tag: one[tag].get("Value") for tag in COMPARED if tag in one}
                        for one in answer
                    }
                    for answer in answers
                )
                assert ours == theirs, wanted
            for image in images:
                a, b = (
                    client.get(f"{root}{at(image)}/metadata").json()[0]
                    for client, root in ((viewer, ""), (other, "/dicom-web"))
                )
                assert {tag: a[tag] for tag in ALIKE} == {tag: b[tag] for tag in ALIKE}
    finally:
        orthanc.terminate()
        orthanc.wait(20)


COMPARED = ("00080020", "00080050", "00100010", "00100020", "0020000D", "00201206", "00201208")
ALIKE = ("00080016", "00080018", "00080060", "00100010", "00100020", "0020000E", "00280010", "00280011", "00280100")


def test_what_comes_by_stow_is_read_like_what_comes_by_c_store(
    site: Site, run_node: Callable[..., Any], radiograph: Make, eventually: Callable[..., Any]
) -> None:
    node, image = run_node(site), radiograph(0.9)
    device = {"Authorization": f"Bearer {readers.add(site, 'DX-1', 'device')}"}
    clinician = {"Authorization": f"Bearer {readers.add(site, 'Ada', 'clinician')}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{node.api_port}", timeout=60) as client:
        answer = client.post("/dicomweb/studies", headers=device | STOW, content=body_of(part10(image)))
        assert answer.status_code == 200

        def series() -> set[str]:
            found = client.get(f"/dicomweb/studies/{image.StudyInstanceUID}/series", headers=clinician).json()
            return {value(one, "00080060") for one in found}

        eventually(lambda: series() == {"DX", "OT", "SR"})
    loaded = Path(f"/proc/{node.pid}/maps").read_text()
    assert "libtorch" not in loaded  # the web process stays small
