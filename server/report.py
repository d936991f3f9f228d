"""A vendor's report of a version as PDF: the tables and pictures of the page."""

import io
import time
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as Page
from matplotlib.transforms import Bbox

from server.export import BASES, Exhibit, Sheet, between, percent
from server.performance import Figure, reference

_A4 = (8.27, 11.69)  # inches
_ROWS = 34  # of a table on one page


def pdf(found: Exhibit, vendor: str) -> bytes:
    """The report.

    Args:
        vendor: whose it is.
    """
    file = io.BytesIO()
    title = f"{found.version.label}: how it does at hospitals"
    with PdfPages(file, metadata={"Title": title, "Author": "Vigie", "Subject": f"for {vendor}"}) as pages:
        pages.savefig(_cover(found, vendor, title))
        for sheet in found.sheets():
            for page in _sheet(sheet):
                pages.savefig(page)
    return file.getvalue()


def _cover(found: Exhibit, vendor: str, title: str) -> Page:
    page = Page(figsize=_A4)
    page.text(0.08, 0.94, title, size=16, weight="bold")
    lines = [
        f"For {vendor}, {time.strftime('%d %B %Y')}. Version digest {found.version.digest}",
        "",
        f"{len(found.hospitals)} hospitals told of it, under pseudonyms; of those asked, {found.untold} told nothing.",
        "A patient is counted once for a version. No count under eleven leaves a hospital.",
        "Intervals are 95 %, exact (Clopper and Pearson), or bounds where counts are kept back.",
        "Tiers of truth are never added up.",
        "",
        *(f"{site}: releases of {_months(months)}" for site, months in found.hospitals.items()),
    ]
    for n, line in enumerate(lines[:60]):
        page.text(0.08, 0.89 - 0.0135 * n, line, size=8.5)
    return page


def _sheet(sheet: Sheet) -> list[Page]:
    named = [("All hospitals", sheet.whole), *((one.site, one) for one in sheet.sites)]
    named += [(f"told in {one.site}", one) for one in sheet.months] + [(one.group, one) for one in sheet.groups]
    made: list[Page] = []
    for start in range(0, len(named), _ROWS):
        page = Page(figsize=_A4)
        page.text(0.08, 0.95, sheet.title, size=9.5, weight="bold")
        part = named[start : start + _ROWS]
        height = 0.02 * (len(part) + 1)
        axes = page.add_axes((0.08, 0.92 - height, 0.84, height))
        axes.axis("off")
        table: Any = axes.table(
            cellText=[_cells(name, one) for name, one in part],
            colLabels=["", "Patients", "Value", "95 %", "From", "In the funnel"],
            colWidths=[0.22, 0.1, 0.1, 0.18, 0.28, 0.12],
            cellLoc="left",
            edges="B",
            bbox=Bbox.unit(),
        )
        table.auto_set_font_size(False)
        table.set_fontsize(7.5)
        if not start:
            _forest(page, named[: 1 + len(sheet.sites)][:_ROWS], 0.88 - height)
        made.append(page)
    return made


def _cells(name: str, one: Figure) -> list[str]:
    patients = str(one.n) if one.n else "<11"
    return [name, patients, percent(one.estimate.value), between(one), BASES[one.basis], one.standing]


def _forest(page: Page, named: list[tuple[str, Figure]], top: float) -> None:
    height = min(0.025 * len(named) + 0.02, top - 0.06)
    if height < 0.05:
        return
    axes = page.add_axes((0.3, top - height, 0.62, height))
    for n, (_, one) in enumerate(named):
        style = "dotted" if one.basis == "bounds" else "solid"
        axes.plot([one.estimate.low, one.estimate.high], [n, n], color="black", linestyle=style)
        axes.plot([one.estimate.value], [n], "D" if not n else "o", color="black", markersize=5)
    axes.axvline(reference([one for _, one in named]).value, color="black", linestyle="dashed", linewidth=0.7)
    axes.set_yticks(range(len(named)), [name for name, _ in named], size=7.5)
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.set_xlim(right=1.005)
    axes.tick_params(axis="x", labelsize=7.5)


def _months(months: tuple[int, ...]) -> str:
    return ", ".join(f"{one // 100}-{one % 100:02}" for one in months)
