"""The demonstration's result as one picture: before and after at each hospital, with intervals and decisions."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from scripts.demonstration.summary import Figure, Performance, Summary

_BEFORE, _AFTER = "#7a869a", "#0b7a75"


def draw(summary: Summary, path: Path) -> None:
    """Draw AUC, sensitivity and specificity on the test patients of each hospital, versions 1 and 2."""
    quantities = ("auc", "sensitivity", "specificity")
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), sharey=True)
    sites = list(summary.hospitals)
    for axis, quantity in zip(axes, quantities, strict=True):
        for number, site in enumerate(sites):
            found = summary.hospitals[site]
            _mark(axis, number - 0.13, found.before.get("test"), quantity, _BEFORE, "o")
            _mark(axis, number + 0.13, found.after.get("test"), quantity, _AFTER, "s")
        axis.set_xticks(range(len(sites)), [f"{site}\n{summary.hospitals[site].decision}" for site in sites])
        axis.set_title({"auc": "AUC"}.get(quantity, quantity + ", local threshold"))
        axis.set_ylim(0, 1.02)
        axis.set_xlim(-0.5, len(sites) - 0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        plt.Line2D([], [], color=_BEFORE, marker="o", linestyle="", label="version 1"),
        plt.Line2D([], [], color=_AFTER, marker="s", linestyle="", label="version 2"),
    ]
    axes[0].legend(handles=handles, loc="lower left", frameon=False)
    figure.suptitle(
        f"Held-back test patients of each hospital, 95 % intervals - {summary.data}, {summary.rounds} rounds, "
        f"seed {summary.seed}",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mark(axis: plt.Axes, x: float, found: Performance | None, quantity: str, colour: str, marker: str) -> None:
    if found is None:
        return
    value: Figure = getattr(found, quantity)
    if value.value is None or value.low is None or value.high is None:
        return
    axis.errorbar(
        x,
        value.value,
        yerr=[[value.value - value.low], [value.high - value.value]],
        color=colour,
        marker=marker,
        markersize=7,
        capsize=4,
    )
    axis.annotate(
        f"{value.value:.2f}",
        (x, value.value),
        xytext=(-28 if marker == "o" else 7, -3),
        textcoords="offset points",
        fontsize=8,
        color=colour,
    )
