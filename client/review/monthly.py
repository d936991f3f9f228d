"""The monthly report as PDF: the dashboard's figures up to the end of a month, on paper."""

import io
import math
import time
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from client.review.dashboard import Board, Month, board
from client.store.site import Site
from models.errors import ConfigurationError
from models.stats.intervals import Estimate

_A4: Final = (8.27, 11.69)  # inches
_COLUMNS: Final = (
    "Month",
    "Read",
    "Refused",
    "Failed",
    "Median, s",
    "95th, s",
    "Missed",
    "Called wrongly",
    "Agreed",
)


def pdf(site: Site, month: str) -> bytes:
    """The report of one month, with the eleven before it.

    Args:
        month: 2026-10.

    Raises:
        ConfigurationError: no month, or one that has not ended.
    """
    end = _end(month)
    found = board(site, end - 1)
    title = f"{site.config.institution}: the AI in {month}"
    file = io.BytesIO()
    with PdfPages(file, metadata={"Title": title, "Author": "Vigie"}) as pages:
        pages.savefig(_figures(found, title))
        pages.savefig(_plots(found, title))
    return file.getvalue()


def _end(month: str) -> float:
    try:
        begin = time.strptime(month, "%Y-%m")
    except ValueError:
        raise ConfigurationError(f"{month!r}: a month is YYYY-MM") from None
    end = time.mktime((begin.tm_year, begin.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))
    if end > time.time():
        raise ConfigurationError(f"{month} has not ended yet")
    return end


def _figures(found: Board, title: str) -> Figure:
    page = Figure(figsize=_A4)
    page.text(0.08, 0.95, title, size=15, weight="bold")
    cost = "not known" if found.cost is None else f"{found.cost:.2f} {found.currency}"
    lines = [
        f"Studies in twelve months: {found.studies_a_year}; cost of one: {cost}.",
        "Rates are those of the random sample, by truths of those who did not see the AI's answer; 95 % intervals.",
        "",
        "On the day of this report:",
        f"second reads due: {found.due}",
        "could have been read and was not: " + (", ".join(f"{why} {n}" for why, n in found.lost.items()) or "none"),
        *(f"alarm: {text}" for text in found.alarms),
        *(f"to be told: {text}" for text in found.incidents),
        *(f"warning: {text}" for text in found.warnings),
        "",
        "Versions:",
        *(_version(one) for one in found.versions),
    ]
    for number, line in enumerate(lines[:30]):
        page.text(0.08, 0.91 - 0.016 * number, line[:130], size=8.5)
    top = 0.9 - 0.016 * min(len(lines), 30)
    height = 0.022 * (len(found.months) + 1)
    axes = page.add_axes((0.08, top - height, 0.84, height))
    axes.axis("off")
    table: Any = axes.table(
        cellText=[_row(month) for month in found.months],
        colLabels=list(_COLUMNS),
        colWidths=[0.09, 0.07, 0.08, 0.07, 0.09, 0.08, 0.17, 0.17, 0.18],
        cellLoc="left",
        edges="B",
        bbox=Bbox.unit(),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    return page


def _version(one: Any) -> str:
    area = "insufficient" if math.isnan(one.area.value) else _three(one.area)
    error = "insufficient" if math.isnan(one.error.value) else _three(one.error)
    stop = ", suspended" if one.suspended else ""
    adopted = time.strftime("%Y-%m-%d", time.localtime(one.adopted_at))
    return f"{one.label}{stop}, since {adopted}: {one.exams} exams known; area {area}; calibration error {error}"


def _three(one: Estimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _row(month: Month) -> list[str]:
    seconds = ["" if math.isnan(one) else f"{one:.1f}" for one in (month.half, month.most)]
    volumes = [str(month.volumes[kind]) for kind in ("scored", "refused", "failed")]
    return [month.name, *volumes, *seconds, *map(_share, (month.missed, month.called)), _share(month.agreed)]


def _share(one: Estimate) -> str:
    return "" if math.isnan(one.value) else f"{one.value:.1%} ({one.low:.0%} to {one.high:.0%})"


def _plots(found: Board, title: str) -> Figure:
    page = Figure(figsize=_A4)
    page.text(0.08, 0.95, title, size=11, weight="bold")
    names = [month.name for month in found.months]
    series: Sequence[tuple[str, list[Estimate]]] = (
        ("Findings missed, random sample", [month.missed for month in found.months]),
        ("Called where there was none, random sample", [month.called for month in found.months]),
        ("Readers' answers that agreed", [month.agreed for month in found.months]),
    )
    volumes = page.add_axes((0.1, 0.74, 0.82, 0.16))
    volumes.bar(names, [sum(month.volumes.values()) for month in found.months], color="0.4")
    volumes.set_title("Studies", size=9, loc="left")
    volumes.tick_params(labelsize=6)
    for number, (name, estimates) in enumerate(series):
        axes = page.add_axes((0.1, 0.52 - 0.22 * number, 0.82, 0.16))
        axes.set_title(name, size=9, loc="left")
        known = [(n, one) for n, one in enumerate(estimates) if not math.isnan(one.value)]
        axes.vlines([n for n, _ in known], [one.low for _, one in known], [one.high for _, one in known], color="0.5")
        axes.plot([n for n, _ in known], [one.value for _, one in known], "o", color="black", markersize=4)
        for place, label in found.changes:
            axes.axvline(place - 0.5, color="black", linestyle="dotted", linewidth=0.8)
            axes.text(place - 0.45, 1.0, label, size=6, va="top", transform=axes.get_xaxis_transform())
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(len(names)), names)
        axes.tick_params(labelsize=6)
    return page
