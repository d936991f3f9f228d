"""A vendor's pictures (SVG): each hospital's interval against the whole, and the funnel around it. Pure.

Printed in black they say the same as on a screen; whatever stands in them stands in a table beside them, too.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from server.performance import Figure, limits, reference

WIDTH: Final = 760
_INK, _FAINT, _LINE = "#1b1b1b", "#565c65", "#a9aeb1"
_LEFT, _RIGHT = 190, 730
_ROW: Final = 26


def forest(whole: Figure, sites: Sequence[Figure]) -> str:
    """Intervals one below the other, a broken line where the hospitals are together."""
    rows = [("All hospitals", whole), *((one.site, one) for one in sites)]
    known = [one for _, one in rows if not math.isnan(one.estimate.low)]
    low = _floor(min((one.estimate.low for one in known), default=0.0))
    height = 34 + _ROW * len(rows)

    def x(share: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (share - low) / (1 - low), 1)

    title = f"{whole.rate} of each hospital with its 95 % interval, against all of them"
    parts = [_head(height, title)]
    for share in _ticks(low):
        parts.append(f'<path d="M {x(share)} 6 V {height - 22}" stroke="{_LINE}" stroke-width="0.5"/>')
        parts.append(_text(x(share), height - 6, f"{100 * share:.0f} %", _FAINT, "middle"))
    middle = reference(sites).value
    if not math.isnan(middle):
        at = x(middle)
        parts.append(f'<path d="M {at} 6 V {height - 22}" stroke="{_INK}" stroke-dasharray="5 4"/>')
    for n, (name, one) in enumerate(rows):
        y = 20 + _ROW * n
        parts.append(_text(8, y + 4, name))
        if math.isnan(one.estimate.low):
            parts.append(_text(_LEFT, y + 4, "insufficient", _FAINT))
            continue
        stroke = ' stroke-dasharray="2 3"' if one.basis == "bounds" else ""
        parts.append(
            f'<path d="M {x(one.estimate.low)} {y} H {x(one.estimate.high)}" stroke="{_INK}" stroke-width="2"{stroke}/>'
        )
        if not math.isnan(one.estimate.value):
            at = x(one.estimate.value)
            fill = _INK if one.standing in ("", "inside") else "#ffffff"
            shape = (
                f'<path d="M {at} {y - 7} L {at + 7} {y} L {at} {y + 7} L {at - 7} {y} Z" fill="{_INK}"/>'
                if not n
                else f'<circle cx="{at}" cy="{y}" r="5" fill="{fill}" stroke="{_INK}" stroke-width="2"/>'
            )
            parts.append(shape)
    return "\n".join([*parts, "</svg>"])


def funnel(sites: Sequence[Figure]) -> str:
    """Rates by the number of patients, with the limits that chance keeps to; empty where nothing can be compared."""
    shown, middle = [one for one in sites if one.basis == "exact"], reference(sites).value
    if not 0 < middle < 1:
        return ""
    most = max(one.n for one in shown) * 1.1
    values = [middle, *(one.estimate.value for one in shown), limits(middle, 11)[1][0]]
    low = _floor(max(min(values), 0.0))
    height = 300

    def x(n: float) -> float:
        return round(70 + (_RIGHT - 70) * n / most, 1)

    def y(share: float) -> float:
        return round(12 + (height - 60) * (1 - max(share, low)) / (1 - low), 1)

    parts = [_head(height, f"{shown[0].rate} by patients, with limits of 95 and 99.8 % around all hospitals")]
    for share in _ticks(low):
        parts.append(f'<path d="M 70 {y(share)} H {_RIGHT}" stroke="{_LINE}" stroke-width="0.5"/>')
        parts.append(_text(62, y(share) + 4, f"{100 * share:.0f} %", _FAINT, "end"))
    places = [11 + (most - 11) * n / 60 for n in range(61)]
    for which, dash in ((0, "6 4"), (1, "2 3")):
        for side in (0, 1):
            line = " L ".join(f"{x(n)} {y(limits(middle, round(n))[which][side])}" for n in places)
            parts.append(f'<path d="M {line}" fill="none" stroke="{_FAINT}" stroke-dasharray="{dash}"/>')
    parts.append(f'<path d="M 70 {y(middle)} H {_RIGHT}" stroke="{_INK}"/>')
    for one in shown:
        fill = _INK if one.standing == "inside" else "#ffffff"
        at = x(one.n), y(one.estimate.value)
        parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="5" fill="{fill}" stroke="{_INK}" stroke-width="2"/>')
        if one.standing != "inside":
            side, anchor = (9, "start") if at[0] < _RIGHT - 120 else (-9, "end")
            parts.append(_text(at[0] + side, at[1] + 4, one.site, anchor=anchor))
    for n in _counts(most):
        parts.append(_text(x(n), height - 28, str(n), _FAINT, "middle"))
    parts.append(_text(_RIGHT, height - 8, "patients; broken: 95 %, dotted: 99.8 %; hollow: outside", _FAINT, "end"))
    return "\n".join([*parts, "</svg>"])


def _head(height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}" font-family="DejaVu Sans, Arial, sans-serif" font-size="13">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    )


def _text(x: float, y: float, content: str, ink: str = _INK, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{ink}" text-anchor="{anchor}">{escape(content)}</text>'


def _floor(share: float) -> float:
    """The next tenth below, so that ticks are round; never so near one that nothing is left."""
    return min(math.floor(share * 10 + 1e-9) / 10, 0.9)


def _ticks(low: float) -> list[float]:
    step = 0.1 if low < 0.8 else 0.05
    return [low + step * n for n in range(round((1 - low) / step) + 1)]


def _counts(most: float) -> list[int]:
    step = 10 ** math.floor(math.log10(most))
    step = step // 5 or 1 if most / step < 2 else step // 2 or 1 if most / step < 5 else step
    return list(range(step, int(most) + 1, step))
