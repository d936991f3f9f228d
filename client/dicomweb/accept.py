"""What a client says that it can take: the Accept header, and the `accept` parameter that stands in for it.

Source: RFC 9110 12.5.1, PS3.18 8.3.3.1 (the parameter), 8.7.5 (multipart types and the transfer-syntax parameter).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ANY = "*/*"
_PIECE = re.compile(r'(?:[^,;"]|"(?:[^"\\]|\\.)*")+|[,;]')


@dataclass(frozen=True, slots=True)
class Wanted:
    """One media range.

    Attributes:
        media: of the payload, lower case, e.g. `image/jls`, `image/*` or `*/*`.
        multipart: as parts of a multipart/related; None where either will do.
        syntax: UID of a transfer syntax, `*` for any, empty where none was named.
        q: how much it is wanted; 0 is not at all.
    """

    media: str
    multipart: bool | None
    syntax: str
    q: float

    def takes(self, media: str) -> bool:
        """Whether it includes a concrete media type."""
        return self.media in (ANY, media) or self.media == f"{media.partition('/')[0]}/*"


def parse(header: str) -> list[Wanted]:
    """The media ranges of an Accept header, most wanted first; what is no media range is left out.

    An empty header takes anything.
    """
    found = [wanted for pieces in _ranges(header) if (wanted := _wanted(pieces)) is not None]
    if not header.strip():
        found = [Wanted(ANY, None, "", 1.0)]
    return sorted((wanted for wanted in found if wanted.q > 0), key=lambda wanted: -wanted.q)


def choose(wanted: Iterable[Wanted], offered: Iterable[str]) -> str | None:
    """The first of the offered single-part media types that the most wanted range takes; None where none does."""
    offers = list(offered)
    for one in wanted:
        if not one.multipart:
            for media in offers:
                if one.takes(media):
                    return media
    return None


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """A header value as (what stands first, its parameters), names in lower case."""
    return _read(next(_ranges(value)))


def _ranges(header: str) -> Iterator[list[str]]:
    """A header's comma-separated values, each cut at its semicolons; neither counts within quotation marks."""
    pieces: list[str] = [""]
    for piece in _PIECE.findall(header):
        if piece == ",":
            yield pieces
            pieces = [""]
        elif piece == ";":
            pieces.append("")
        else:
            pieces[-1] += piece
    yield pieces


def _read(pieces: list[str]) -> tuple[str, dict[str, str]]:
    named: dict[str, str] = {}
    for piece in pieces[1:]:
        name, _, text = piece.partition("=")
        named.setdefault(name.strip().lower(), _unquoted(text.strip()))
    return pieces[0].strip().lower(), named


def _wanted(pieces: list[str]) -> Wanted | None:
    media, named = _read(pieces)
    if "/" not in media:
        return None
    try:
        q = min(max(float(named.get("q", "1")), 0.0), 1.0)
    except ValueError:
        return None
    syntax = named.get("transfer-syntax", "")
    if media == "multipart/related":
        return Wanted(named.get("type", ANY).lower(), True, syntax, q)
    return Wanted(media, None if media == ANY else False, syntax, q)


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
