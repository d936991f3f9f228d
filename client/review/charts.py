"""Plots of the dashboard: SVG without script or style sheet, black on white and white on black alike. Pure.

Each says in words what it shows; the table beside it has the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from client.review.dashboard import Board, Standing
from models.stats.intervals import Estimate
from models.stats.reliability import Bin

WIDTH: Final = 720
HEIGHT: Final = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 22, 26
_SHADES: Final = (0.85, 0.5, 0.25)


@dataclass(frozen=True, slots=True)
class Plots:
    """The dashboard's plots, each SVG."""

    volumes: str
    turns: str
    missed: str
    called: str
    agreed: str
    reliability: tuple[tuple[Standing, str], ...]


def plots(board: Board) -> Plots:
    """All plots of a dashboard."""
    months, names = board.months, [month.name for month in board.months]
    kinds = [(kind, [float(month.volumes[kind]) for month in months]) for kind in ("scored", "refused", "failed")]

    def share(title: str, found: Sequence[Estimate]) -> str:
        values, low, high = ([getattr(one, name) for one in found] for name in ("value", "low", "high"))
        return course(title, names, values, low, high, board.changes, "{:.0%}")

    half = [month.half for month in months]
    return Plots(
        bars("Studies by month: read, refused, failed", names, kinds),
        course("Seconds to the report by month", names, half, half, [month.most for month in months], board.changes),
        share("Share of findings missed by month", [month.missed for month in months]),
        share("Share called where there was none by month", [month.called for month in months]),
        share("Share of readers' answers that agreed by month", [month.agreed for month in months]),
        tuple(
            (one, reliability(f"{one.label}: probabilities said against what was found", one.bins))
            for one in board.versions
            if one.bins
        ),
    )


def bars(title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Stacked bars, one for each label."""
    totals = [sum(values[n] for _, values in series) for n in range(len(labels))]
    top = _nice(max(totals, default=0.0))
    parts = [_head(title), *_grid(top, "{:g}")]
    step = (WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    for n, label in enumerate(labels):
        x, y = _LEFT + n * step + step * 0.15, float(HEIGHT - _BOTTOM)
        for shade, (_, values) in zip(_SHADES, series, strict=False):
            high = (HEIGHT - _TOP - _BOTTOM) * values[n] / top
            y -= high
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.7:.1f}" height="{high:.1f}" fill="currentColor"'
                f' fill-opacity="{shade}"/>'
            )
        parts.append(_label(x + step * 0.35, label))
    parts += [
        f'<rect x="{_LEFT + 130 * n}" y="4" width="10" height="10" fill="currentColor" fill-opacity="{shade}"/>'
        f'<text x="{_LEFT + 130 * n + 15}" y="13">{escape(name)}</text>'
        for n, (shade, (name, _)) in enumerate(zip(_SHADES, series, strict=False))
    ]
    return "".join([*parts, "</svg>"])


def course(
    title: str,
    labels: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    marks: Sequence[tuple[float, str]] = (),
    unit: str = "{:g}",
) -> str:
    """Values with their intervals over time; NaN where there is none.

    Args:
        marks: where versions changed, counted in labels from the left edge, with what to write there.
    """
    top = _nice(max((one for one in (*high, *values) if not math.isnan(one)), default=0.0))
    parts = [_head(title), *_grid(top, unit)]
    step = (WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    for place, text in marks:
        x = _LEFT + place * step
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="currentColor"'
            f' stroke-dasharray="3 3"/><text x="{x:.1f}" y="{_TOP - 6}" text-anchor="{_anchor(x)}">'
            f"{escape(text)}</text>"
        )
    for n, label in enumerate(labels):
        x = _LEFT + (n + 0.5) * step
        parts.append(_label(x, label))
        if math.isnan(values[n]):
            continue
        y, upper, lower = (_y(one, top) for one in (values[n], high[n], low[n]))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{upper:.1f}" y2="{lower:.1f}" stroke="currentColor"'
            f' stroke-opacity="0.6" stroke-width="2"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="currentColor"/>'
        )
    return "".join([*parts, "</svg>"])


def reliability(title: str, bins: Sequence[Bin]) -> str:
    """What was said against what was found; on the broken line they are the same."""
    side = HEIGHT - _TOP - _BOTTOM
    parts = [_head(title), *_grid(1.0, "{:.0%}")]
    parts.append(
        f'<line x1="{_LEFT}" y1="{HEIGHT - _BOTTOM}" x2="{_LEFT + 2 * side}" y2="{_TOP}" stroke="currentColor"'
        ' stroke-dasharray="4 3"/>'
    )
    for one in bins:
        x, y, upper, lower = (
            _LEFT + 2 * side * one.said,
            *(_y(value, 1.0) for value in (one.found.value, one.found.high, one.found.low)),
        )
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{upper:.1f}" y2="{lower:.1f}" stroke="currentColor"'
            f' stroke-opacity="0.6" stroke-width="2"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="currentColor"/>'
        )
    for share in (0.0, 0.5, 1.0):
        parts.append(_label(_LEFT + 2 * side * share, f"{share:.0%}"))
    return "".join([*parts, "</svg>"])


def _head(title: str) -> str:
    return (
        f'<svg class="course" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(title)}" font-size="11" fill="currentColor">'
    )


def _grid(top: float, unit: str) -> list[str]:
    parts: list[str] = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share * top, top)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor"'
            f' stroke-opacity="0.2"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(unit.format(share * top))}</text>"
        )
    return parts


def _anchor(x: float) -> str:
    """So that what is written above a mark is not cut off at the right."""
    return "end" if x > WIDTH / 2 else "start"


def _label(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>'


def _y(value: float, top: float) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - min(max(value / top, 0.0), 1.0))


def _nice(most: float) -> float:
    """A round number not below the largest value."""
    if most <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(most))
    return next(times * step for times in (1, 2, 5, 10) if times * step >= most)
