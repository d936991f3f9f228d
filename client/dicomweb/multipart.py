"""multipart/related: read as it comes, written as it goes, never more than one part in memory.

Source: RFC 2046 5.1.1 (the grammar), RFC 2387, PS3.18 8.6.1.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_MOST_HEADERS = 16 << 10
_MOST_PREAMBLE = 64 << 10
_MOST_PADDING = 256
_LONGEST_BOUNDARY = 200  # 70 by the RFC, but Orthanc sends longer ones


class Malformed(Exception):
    """The body is no multipart body."""


class TooLarge(Exception):
    """A part is larger than is taken."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its headers, names in lower case, and its content."""

    headers: dict[str, str]
    content: bytes


class _At(Enum):
    PREAMBLE = 0
    HEADERS = 1
    CONTENT = 2
    END = 3


class Parser:
    """Cuts a body into its parts.

    Args:
        boundary: as the Content-Type names it.
        largest: bytes that one part may have.

    Raises:
        Malformed: no boundary that could be one.
    """

    def __init__(self, boundary: str, largest: int) -> None:
        if not 1 <= len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
            raise Malformed("no boundary")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._largest = largest
        self._buffer = bytearray(b"\r\n")  # the first delimiter has no line end before it
        self._searched = 0
        self._headers: dict[str, str] = {}
        self._at = _At.PREAMBLE

    @property
    def finished(self) -> bool:
        """Whether the closing delimiter was seen: a body without it is half a body."""
        return self._at is _At.END

    def feed(self, chunk: bytes) -> Iterator[Part]:
        """Take the next bytes of the body; gives the parts that they complete.

        Raises:
            Malformed, TooLarge: what came before is good, nothing after it can be.
        """
        if self.finished:
            return  # an epilogue is to be ignored
        self._buffer += chunk
        while not self.finished:
            if self._at is _At.HEADERS and not self._read_headers():
                return
            headers, inside = self._headers, self._at is _At.CONTENT
            content = self._read_content()
            if content is None:
                return
            if inside:
                yield Part(headers, content)

    def _read_headers(self) -> bool:
        end = 0 if self._buffer.startswith(b"\r\n") else self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > _MOST_HEADERS:
            if len(self._buffer) > _MOST_HEADERS:
                raise Malformed("headers without an end")
            return False
        self._headers = _headers(bytes(self._buffer[:end]))
        # the blank line's end stays: with it begins the delimiter of a part without content
        del self._buffer[: 0 if end == 0 else end + 2]
        self._at, self._searched = _At.CONTENT, 0
        return True

    def _read_content(self) -> bytes | None:
        """Everything up to the next delimiter, whatever it is; None where that has not come yet."""
        while True:
            at = self._buffer.find(self._delimiter, self._searched)
            if at < 0:
                self._searched = max(0, len(self._buffer) - len(self._delimiter) + 1)
                self._check(len(self._buffer) - 2 - len(self._delimiter) - _MOST_PADDING)
                return None
            after = at + len(self._delimiter)
            tail = bytes(self._buffer[after : after + _MOST_PADDING])
            rest = tail.lstrip(b" \t")
            if rest.startswith(b"--") and rest == tail:
                begins, then = after + 2, _At.END
            elif rest.startswith(b"\r\n"):
                begins, then = after + len(tail) - len(rest) + 2, _At.HEADERS
            elif len(rest) < 2 and len(tail) < _MOST_PADDING:
                self._searched = at
                return None
            else:  # a longer word that begins like the boundary
                self._searched = at + 1
                continue
            self._check(at - 2)
            content = bytes(memoryview(self._buffer)[2:at])
            del self._buffer[:begins]
            self._at, self._searched = then, 0
            return content

    def _check(self, size: int) -> None:
        if self._at is _At.PREAMBLE and size > _MOST_PREAMBLE:
            raise Malformed("no boundary where the first part should be")
        if self._at is _At.CONTENT and size > self._largest:
            raise TooLarge(f"a part of more than {self._largest} bytes")


def head(boundary: str, headers: dict[str, str]) -> bytes:
    """What stands before a part's content; the content of the part before it, if any, ends here."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"\r\n--{boundary}\r\n{lines}\r\n".encode()


def tail(boundary: str) -> bytes:
    """What stands after the last part."""
    return f"\r\n--{boundary}--\r\n".encode()


def _headers(text: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in text.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if line and not colon:
            raise Malformed("a header without a colon")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers
