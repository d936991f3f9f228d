"""What a hospital's process does not load."""

import sys
from typing import Final

_UNUSED: Final = ("matplotlib", "mlflow")


def without_unused() -> None:
    """Keep MLflow and Matplotlib out of this process; to be called before MONAI is imported.

    MONAI imports both where they are installed, which takes two to three seconds of processor time (Matplotlib lists
    the machine's fonts once per home directory) and a hundred megabytes of every process that reads or trains, and a
    hospital has no use for either. Source: Python's import system, None in `sys.modules`.
    """
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # pyright: ignore[reportArgumentType]
