"""Finds any of many thousand byte strings in a lot of bytes, however they are written down or packed."""

import base64
import re
import zlib

import numpy as np

KEY = 8  # bytes; nothing shorter can be looked for
_BITS = 22
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 16 << 20
_LARGEST = 256 << 20
_PACKED = re.compile(rb"\x1f\x8b\x08|PK\x03\x04|\x78[\x01\x5e\x9c\xda]")

# An image file of any of these kinds has no business on the wire, whoever is on it.
SIGNATURES = {
    "a PNG file": b"\x89PNG\r\n\x1a\n",
    "a JPEG file": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "a JPEG 2000 file": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "a JPEG 2000 codestream": b"\xff\x4f\xff\x51\x00\x29\x00\x00",
    "a DICOM file": b"DICM\x02\x00\x00\x00UL\x04\x00",
}


class Needles:
    """Byte strings with names. The time to look does not depend on how many there are."""

    def __init__(self):
        self._by_key = {}
        self._table = np.zeros(1 << _BITS, bool)
        self.count = 0

    def add(self, name, pattern):
        assert len(pattern) >= KEY, f"{name} is too short to be looked for"
        key = bytes(pattern[:KEY])
        self._by_key.setdefault(key, []).append((bytes(pattern), name))
        self._table[_hash(np.frombuffer(key, "<u8"))] = True
        self.count += 1

    def add_text(self, name, text):
        """A word, as text of one or two bytes a letter, and as anything may be written (see `written`)."""
        for coding in ("utf-8", "utf-16-le", "utf-16-be"):
            for how, pattern in written(text.encode(coding)).items():
                if len(pattern) >= KEY:
                    self.add(f"{name}, {coding} {how}", pattern)

    def add_bytes(self, name, content):
        for how, pattern in written(content).items():
            self.add(f"{name}, {how}", pattern)

    def find(self, content):
        """Names of all that is in there."""
        content = memoryview(content).cast("B") if not isinstance(content, bytes) else content
        found = set()
        for start in range(0, len(content), _PIECE):
            # pieces overlap by a key, so that none is cut in two
            piece = np.frombuffer(content, np.uint8, offset=start, count=min(_PIECE + KEY - 1, len(content) - start))
            for shift in range(min(KEY, max(len(piece) - KEY + 1, 0))):
                words = piece[shift : shift + (len(piece) - shift) // KEY * KEY].view("<u8")
                for index in np.flatnonzero(self._table[_hash(words)]):
                    at = start + shift + int(index) * KEY
                    for pattern, name in self._by_key.get(bytes(content[at : at + KEY]), ()):
                        if bytes(content[at : at + len(pattern)]) == pattern:
                            found.add(name)
        return found

    def find_all(self, content):
        """Like `find`, also in what is packed inside, and inside that."""
        found = set()
        for part in unpacked(content):
            found |= self.find(part)
        return found


def written(content):
    """How bytes may be written down: as they are, in base64 wherever they begin in it, in hex."""
    forms = {"raw": content, "hex": content.hex().encode(), "HEX": content.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + content)
        # only the letters that this content alone decides
        whole = encoded[(0, 2, 3)[before] : (before + len(content)) * 8 // 6]
        forms[f"base64+{before}"] = whole
        if (other := whole.translate(bytes.maketrans(b"+/", b"-_"))) != whole:
            forms[f"base64url+{before}"] = other
    return forms


def unpacked(content, depth=4):
    """The content, and whatever zlib, gzip or zip hold in it, wherever they begin."""
    yield content
    if depth == 0:
        return
    content = bytes(content)
    for match in _PACKED.finditer(content):
        at = match.start()
        if match[0].startswith(b"PK"):
            if int.from_bytes(content[at + 8 : at + 10], "little") != 8:
                continue  # stored: it is there to be read already
            names = int.from_bytes(content[at + 26 : at + 28], "little")
            more = int.from_bytes(content[at + 28 : at + 30], "little")
            inside = _inflate(content, at + 30 + names + more, -15)
        else:
            inside = _inflate(content, at, 31 if match[0][0] == 0x1F else 15)
        if len(inside) >= KEY:
            yield from unpacked(inside, depth - 1)


def _inflate(content, at, window):
    """As much as can be inflated; by chance, two bytes in ten thousand look like a beginning."""
    inflater = zlib.decompressobj(window)
    parts = []
    size = 0
    try:
        while at < len(content) and not inflater.eof and size < _LARGEST:
            made = inflater.decompress(content[at : at + 65536])
            at += 65536
            parts.append(made)
            size += len(made)
    except zlib.error:
        return b"".join(parts)
    return b"".join(parts)


def _hash(words):
    with np.errstate(over="ignore"):
        return (words.astype(np.uint64) * _FACTOR) >> np.uint64(64 - _BITS)
