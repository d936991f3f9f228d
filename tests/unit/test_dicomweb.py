"""DICOMweb's pure parts: hostile bodies, searches and headers, and what the standard says of them."""

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from client.dicomweb import accept, json_model, matching, multipart
from client.dicomweb.multipart import Malformed, Parser, Part, TooLarge
from client.dicomweb.part10 import split
from models.errors import InvalidStudy

BOUNDARY = "cut"
contents = st.binary(max_size=60).filter(lambda content: b"\r\n--cut" not in b"\r\n" + content)


def written(parts: list[bytes]) -> bytes:
    body = b"".join(multipart.head(BOUNDARY, {"Content-Type": "a/b"}) + content for content in parts)
    return body + multipart.tail(BOUNDARY)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(body)) for place in places} | {0, len(body)})
    return [body[first:last] for first, last in itertools.pairwise(edges)]


def read(chunks: list[bytes], largest: int = 1000) -> tuple[list[Part], Parser]:
    parser = Parser(BOUNDARY, largest)
    return [part for chunk in chunks for part in parser.feed(chunk)], parser


@given(st.lists(contents, max_size=5), st.lists(st.integers(0, 500), max_size=12), st.binary(max_size=20))
def test_a_body_is_read_as_it_was_written_however_it_is_cut(
    parts: list[bytes], places: list[int], epilogue: bytes
) -> None:
    found, parser = read(cut(written(parts) + epilogue, places))
    assert [part.content for part in found] == parts
    assert parser.finished
    assert all(part.headers == {"content-type": "a/b"} for part in found)


@given(st.lists(contents, min_size=1, max_size=4), st.integers(1, 300))
def test_half_a_body_gives_whole_parts_only_and_is_never_finished(parts: list[bytes], missing: int) -> None:
    body = written(parts)
    end = max(0, len(body) - 4 - missing)  # not even the closing delimiter's dashes
    found, parser = read([body[:end]])
    assert [part.content for part in found] == parts[: len(found)]
    assert not parser.finished


@given(st.lists(st.sampled_from([b"--cut", b"\r\n", b"--", b"-", b"\r", b"\n", b" ", b"x:", b"x", b"\0" * 9, b"cut"])))
def test_hostile_bodies_end_in_parts_or_in_malformed(pieces: list[bytes]) -> None:
    outcomes: list[Any] = []
    for chunks in ([b"".join(pieces)], pieces):
        try:
            outcomes.append([part.content for part in read(chunks)[0]])
        except Malformed:
            outcomes.append("malformed")
    assert outcomes[0] == outcomes[1]


def test_what_is_too_large_is_never_held() -> None:
    with pytest.raises(TooLarge):
        read([multipart.head(BOUNDARY, {"a": "b"}), *[b"x" * 50] * 100], largest=100)
    for endless in (b"x" * 5000, b"--cut\r\n" + b"a: b\r\n" * 5000):
        with pytest.raises(Malformed):
            read([endless] * 100)
    for boundary in ("", "x" * 201, "é", "a\nb"):
        with pytest.raises(Malformed):
            Parser(boundary, 100)


@given(st.text(alphabet='multipart/related;type="*,q.0158 aplicton\\-', max_size=80))
def test_any_accept_header_is_read(header: str) -> None:
    found = accept.parse(header)
    assert all(0 < one.q <= 1 and one.media.count("/") >= 1 for one in found)
    assert found == sorted(found, key=lambda one: -one.q)


def test_accept_headers_that_viewers_send() -> None:
    [ohif] = accept.parse("multipart/related; type=application/octet-stream; transfer-syntax=*")
    assert (ohif.media, ohif.multipart, ohif.syntax) == ("application/octet-stream", True, "*")
    first, second = accept.parse('image/png;q=0.2, multipart/related; type="image/jls"; transfer-syntax="1.2,3"')
    assert (first.media, first.syntax, second.media, second.q) == ("image/jls", "1.2,3", "image/png", 0.2)
    assert accept.choose(accept.parse("text/html, */*;q=0.1"), ["image/jpeg", "image/png"]) == "image/jpeg"
    assert accept.choose(accept.parse("image/png;q=0"), ["image/png"]) is None


texts = st.text(alphabet="ab*?\\.^é", max_size=8)


@given(texts, texts)
def test_wildcards_match_as_their_definition_says(pattern: str, text: str) -> None:
    def defined(left: str, right: str) -> bool:  # PS3.4 C.2.2.2.4, letter by letter
        if not left:
            return not right
        if left[0] == "*":
            return defined(left[1:], right) or (bool(right) and defined(left, right[1:]))
        return bool(right) and left[0] in ("?", right[0]) and defined(left[1:], right[1:])

    elements = {"00081030": {"vr": "LO", "Value": [text]}}
    assert matching.matches(elements, {"00081030": pattern}) == (pattern == "" or defined(pattern, text))


def test_many_stars_do_not_hang() -> None:
    elements = {"00081030": {"vr": "LO", "Value": ["a" * 5000]}}
    assert not matching.matches(elements, {"00081030": "*" * 50 + "b"})
    assert matching.matches(elements, {"00081030": "*" * 50})
    # texts between stars, each of which fits everywhere: 64 letters and six stars took 20 seconds
    assert not matching.matches(elements, {"00081030": "*a" * 200 + "*b"})
    assert matching.matches(elements, {"00081030": "*a" * 200 + "*"})


days = st.dates().map(lambda day: day.strftime("%Y%m%d").zfill(8))


@given(days, days, days)
def test_date_ranges_hold_both_their_ends(day: str, first: str, last: str) -> None:
    elements = {"00080020": {"vr": "DA", "Value": [day]}}
    for value, expected in [
        (f"{first}-{last}", first <= day <= last),
        (f"{first}-", first <= day),
        (f"-{last}", day <= last),
        (first, day == first),
    ]:
        assert matching.matches(elements, {"00080020": value}) == expected


def test_matching_by_kind_of_value() -> None:
    elements = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]},
        "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
        "00080030": {"vr": "TM", "Value": ["101530.25"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SEG"]},
        "00200013": {"vr": "IS", "Value": [7]},
        "00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["STEP1"]}}]},
    }
    for at, value, expected in [
        ("00100010", "yamada*", True),
        ("00100010", "山田*", True),
        ("00100010", "Yamada", False),
        ("0020000D", "9,1.2.3", True),
        ("0020000D", "9\\1.2.3", True),
        ("0020000D", "1.2.*", False),
        ("00080030", "1015", True),
        ("00080030", "1000-1015", True),
        ("00080030", "-1014", False),
        ("00080061", "SEG", True),
        ("00080061", "MR", False),
        ("00080061", "MR,CT", True),
        ("00080061", "MR\\SE*", True),
        ("00080061", "MR, PT", False),
        ("00200013", "7", True),
        ("00200013", "x", False),
        ("00400275.00400009", "STEP?", True),
        ("00400275.00400009", "STEP2", False),
        ("00081030", "x", False),
        ("00081030", "*", True),
        ("00081030", "", True),
    ]:
        assert matching.matches(elements, {at: value}) == expected, (at, value)


@given(st.lists(st.tuples(st.sampled_from(["limit", "offset", "PatientID", "x.y", "0010", "includefield"]), st.text())))
def test_any_search_is_read_or_refused(parameters: list[tuple[str, str]]) -> None:
    try:
        query = matching.parse(parameters)
    except matching.BadQuery:
        return
    assert query.offset >= 0


@given(st.binary(max_size=300), st.sampled_from([b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\2\0\x10\0UI"]))
def test_no_file_meta_breaks_the_door(noise: bytes, head: bytes) -> None:
    try:
        syntax, start = split(head + noise)
    except InvalidStudy:
        return
    assert syntax.is_transfer_syntax
    assert 132 <= start <= len(head + noise)


@given(st.sampled_from(["DS", "IS", "FD", "PN", "DA", "AT", "SQ", "UN", "US", "LO", "OB"]), st.binary(max_size=40))
def test_malformed_elements_count_as_missing(vr: str, value: bytes) -> None:
    from client.dicomweb.part10 import quiet

    dataset = Dataset()
    dataset.PatientID = "P"
    dataset._dict[Tag(0x00091001)] = RawDataElement(Tag(0x00091001), vr, len(value), value, 0, False, True)
    with quiet():
        made = json.loads(json_model.encode(dataset, lambda place: place), parse_constant=lambda _: pytest.fail("NaN"))
    assert made["00100020"]["Value"] == ["P"]


def test_large_values_are_found_at_their_address() -> None:
    inner, outer = Dataset(), Dataset()
    inner.LUTData = np.arange(1000, dtype="<u2").tobytes()
    inner["LUTData"].VR = "OW"
    outer.ModalityLUTSequence = [Dataset(), inner]
    model = json.loads(json_model.encode(outer, lambda place: f"http://here/{place}"))
    [address] = re.findall(r"http://here/([0-9A-F/]+)", json.dumps(model))
    assert address == "00283000/1/00283006"
    assert json_model.find(outer, address) == inner.LUTData
    for elsewhere in ("00283000/5/00283006", "00283000", "x", "", "00283000/1", "00283000/-9/00283006"):
        assert json_model.find(outer, elsewhere) is None
