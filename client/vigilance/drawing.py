"""A picture of a watch: how the evidence went, exam by exam, towards an alarm. SVG, no script, no style sheet."""

import math
import time
from typing import Final

import numpy as np

from client.vigilance.harm import Watched

WIDTH: Final = 720
HEIGHT: Final = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 28
_LOWEST: Final = 1e-4
_POINTS: Final = 600
_LEVELS: Final = ((1.0, "alarm"), (0.1, "1/10"), (0.01, "1/100"), (0.001, "1/1000"))


def picture(watched: Watched) -> str:
    """The evidence against a version over time, on a scale of powers of ten; the alarm is the line at its top."""
    evidence = watched.course.evidence.sum(1)
    said = f"Evidence against {watched.version.label}: highest {watched.course.highest:.2g}, an alarm at 1"
    parts = [
        f'<svg class="course" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{said}" font-size="11" fill="currentColor">'
    ]
    for level, name in _LEVELS:
        y, look = _y(level), 'stroke-dasharray="4 3"' if level == 1.0 else 'stroke-opacity="0.2"'
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" {look}/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        )
    if len(evidence):
        first, last = watched.since, max(float(watched.at[-1]), watched.since + 1.0)
        across = (WIDTH - _LEFT - _RIGHT) / (last - first)
        path = " ".join(
            f"{_LEFT + across * (float(watched.at[number]) - first):.1f},{_y(float(evidence[number])):.1f}"
            for number in _chosen(len(evidence), int(np.argmax(evidence)))
        )
        parts.append(f'<polyline fill="none" stroke="currentColor" stroke-width="1.6" points="{path}"/>')
        for at, x, anchor in ((first, _LEFT, "start"), (last, WIDTH - _RIGHT, "end")):
            day = time.strftime("%Y-%m-%d", time.localtime(at))
            parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{day}</text>')
    else:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no exam yet</text>')
    return "".join([*parts, "</svg>"])


def _chosen(count: int, highest: int) -> list[int]:
    """So many points as can be seen, the last and the highest among them."""
    spread = np.unique(np.linspace(0, count - 1, min(count, _POINTS)).astype(int)).tolist()
    return sorted({*spread, highest})


def _y(evidence: float) -> float:
    level = math.log10(min(max(evidence, _LOWEST), 1.0)) / math.log10(_LOWEST)
    return _TOP + level * (HEIGHT - _TOP - _BOTTOM)
