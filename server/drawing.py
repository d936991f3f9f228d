"""A lineage as a picture (SVG): printed in black as readable as on a screen, and read aloud as a list. Pure.

Versions stand below each other, each below its parent, with a line from parent to child; beside each its hospitals,
with the AUC on their test patients before (hollow) and after (filled) and its interval. Whatever a colour says is said
in words too.
"""

from collections.abc import Iterator
from html import escape
from typing import Final

from server.lineage import Figure, Hospital, Lineage, Version

WIDTH: Final = 1240
_LANE: Final = 22
_HEAD: Final = 58
_ROW: Final = 22
_GAP: Final = 26
_TOP: Final = 76
_LETTERS: Final = 140  # of a line of reasons
_AXIS: Final = (0.5, 1.0)
_INK: Final = {
    "released": "#00563b",
    "candidate": "#1a4480",
    "blocked": "#8b0a03",
    "withdrawn": "#8b0a03",
    "registered": "#3d4551",
}
"""All darker than 7:1 against white (WCAG 2.2, 1.4.6)."""


def svg(found: Lineage) -> str:
    """The picture, as a file of its own."""
    lanes = found.lanes()
    left = 40 + _LANE * (max(lanes, default=0) + 1)
    tops: list[int] = []
    height = _TOP
    for one in found.versions:
        tops.append(height)
        height += _height(one) + _GAP
    where = {
        one.label: (24 + _LANE * lane, top + 18) for one, lane, top in zip(found.versions, lanes, tops, strict=True)
    }
    count = f"{len(found.versions)} version{'' if len(found.versions) == 1 else 's'}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' role="list" aria-labelledby="title description" font-family="DejaVu Sans, Arial, sans-serif" font-size="13">',
        f'<title id="title">Lineage of {escape(found.title)}</title>',
        f'<desc id="description">{count}, the oldest first. Of each: what it was made from and by, whether it was '
        "released, and per hospital the cases learned from, the AUC on its test patients before and after with 95 % "
        "intervals, and the hospital's decision.</desc>",
        "<style>@page {size: A4 landscape; margin: 10mm}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(24, 34, f"Lineage of {found.title}", size=20, weight="bold"),
        _text(24, 56, f"{count}, oldest first; AUC on each hospital's test patients, 95 % intervals", ink="#3d4551"),
    ]
    for one in found.versions:
        if one.parent in where:
            parts.append(_line(where[one.parent], where[one.label]))
    for one, top in zip(found.versions, tops, strict=True):
        parts.extend(_card(one, left, top, where[one.label]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _height(one: Version) -> int:
    lines = len(_wrapped(one.reasons))
    return _HEAD + _ROW * (len(one.hospitals) + (1 if one.hospitals else 0)) + 17 * lines


def _line(parent: tuple[int, int], child: tuple[int, int]) -> str:
    (x, y), (to_x, to_y) = parent, child
    # to its own lane at once: further down another version may stand in the parent's
    bend = f"V {to_y}" if x == to_x else f"C {x} {y + 30} {to_x} {y + 10} {to_x} {y + 40} V {to_y}"
    return f'<path d="M {x} {y} {bend}" fill="none" stroke="#3d4551" stroke-width="2"/>'


def _card(one: Version, left: int, top: int, at: tuple[int, int]) -> Iterator[str]:
    ink, right = _INK[one.state], WIDTH - 24
    dash = ' stroke-dasharray="6 4"' if one.state in ("blocked", "withdrawn") else ""
    filled = ink if one.state == "released" else "#ffffff"
    adopted = f", adopted at {', '.join(one.adopted_at)}" if one.adopted_at else ""
    yield f'<g role="listitem" aria-label="{escape(f"{one.label}, {one.state}{adopted}. {one.origin}")}">'
    yield (
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{_height(one)}" rx="4" fill="#ffffff" '
        f'stroke="{ink}" stroke-width="1.5"{dash}/>'
    )
    yield f'<circle cx="{at[0]}" cy="{at[1]}" r="7" fill="{filled}" stroke="{ink}" stroke-width="2.5"{dash}/>'
    yield f'<path d="M {at[0] + 8} {at[1]} H {left}" stroke="{ink}" stroke-width="1"/>'
    yield _text(left + 14, top + 23, one.label, size=15, weight="bold")
    yield _text(left + 300, top + 23, f"{one.digest[:12]}…", family="DejaVu Sans Mono, monospace", full=one.digest)
    yield _text(left + 430, top + 23, one.day)
    yield _text(right - 14, top + 23, one.state, ink=ink, weight="bold", anchor="end")
    yield _text(left + 14, top + 44, one.origin, ink="#3d4551")
    y = top + _HEAD
    for line in _wrapped(one.reasons):
        yield _text(left + 14, y + 4, line, ink=ink, full=one.reasons)
        y += 17
    if one.hospitals:
        columns = _columns(left)
        titles = ("hospital", "cases", "AUC", "before", "after", "decision")
        for title, x in zip(titles, columns, strict=True):
            yield _text(x, y + 10, title, ink="#3d4551", size=11)
        low, high = _AXIS
        yield _text(columns[2] + 105, y + 10, f"{low:g} to {high:g}", ink="#3d4551", size=11, anchor="end")
        for hospital in one.hospitals:
            y += _ROW
            yield from _hospital(hospital, columns, y + 10)
    yield "</g>"


def _columns(left: int) -> tuple[int, int, int, int, int, int]:
    return left + 14, left + 210, left + 270, left + 390, left + 555, left + 720


def _hospital(one: Hospital, columns: tuple[int, int, int, int, int, int], y: int) -> Iterator[str]:
    name, cases, plot, before, after, decision = columns
    # the reasons last: they may be cut
    said = f"{one.decision} in its own form".lstrip() if one.personal else one.decision
    if one.adopted and one.decision != "adopted":
        said += "; adopted before"
    said += f": {one.reasons}" if one.reasons else ""
    yield _text(name, y, _cut(one.name, 25), full=one.name)
    yield _text(cases, y, "-" if one.cases is None else str(one.cases))
    yield f'<path d="M {plot} {y + 4} H {plot + 105}" stroke="#a9aeb1" stroke-width="1"/>'
    yield from _dot(one.before, plot, y - 8, hollow=True)
    yield from _dot(one.after, plot, y - 1, hollow=False)
    yield _text(before, y, str(one.before or "-"), size=12)
    yield _text(after, y, str(one.after or "-"), size=12, weight="bold" if one.after else "normal")
    yield _text(decision, y, _cut(said, 60), size=12, full=said)


def _dot(figure: Figure | None, plot: int, y: int, *, hollow: bool) -> Iterator[str]:
    if figure is None:
        return
    ink = "#3d4551" if hollow else "#000000"
    yield f'<path d="M {_x(figure.low, plot)} {y} H {_x(figure.high, plot)}" stroke="{ink}" stroke-width="1.5"/>'
    fill = "#ffffff" if hollow else ink
    yield f'<circle cx="{_x(figure.value, plot)}" cy="{y}" r="3.2" fill="{fill}" stroke="{ink}" stroke-width="1.5"/>'


def _x(value: float, plot: int) -> float:
    low, high = _AXIS
    return round(plot + 105 * (min(max(value, low), high) - low) / (high - low), 1)


def _text(
    x: int,
    y: int,
    content: str,
    *,
    size: int = 13,
    weight: str = "normal",
    ink: str = "#000000",
    anchor: str = "start",
    family: str = "",
    full: str = "",
) -> str:
    font = f' font-family="{family}"' if family else ""
    whole = f"<title>{escape(full)}</title>" if full and full != content else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{ink}" text-anchor="{anchor}"{font}>'
        f"{escape(content)}{whole}</text>"
    )


def _cut(content: str, letters: int) -> str:
    return content if len(content) <= letters else content[: letters - 1] + "…"


def _wrapped(content: str) -> list[str]:
    """At most three lines of whole words."""
    lines: list[str] = []
    for word in content.split():
        if lines and len(lines[-1]) + 1 + len(word) <= _LETTERS:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, _LETTERS))
    return lines if len(lines) <= 3 else [*lines[:2], _cut(f"{lines[2]} …", _LETTERS)]
