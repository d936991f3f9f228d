"""Options of a bench: which values it can run with, and whether a run is the one whose figures are quoted."""

import argparse
from collections.abc import Sequence

_WHERE = ("--folder", "--contender")  # on which disk and beside what, not what is measured


def positive(text: str) -> int:
    """A count that may not be zero; argparse's error where it is something else."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return number


def standard(arguments: Sequence[str]) -> bool:
    """Whether a bench runs with its defaults, wherever it lies."""
    left = list(arguments)
    while left and left[0].partition("=")[0] in _WHERE:
        del left[: 1 if "=" in left[0] else 2]
    return not left
