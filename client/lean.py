"""What a hospital's process does not load."""

import sys


def without_mlflow() -> None:
    """Keep MLflow out of this process; to be called before MONAI is imported.

    MONAI imports it where it is installed, which takes a second and a hundred megabytes of every process that reads or
    trains, and a hospital has no use for it. Source: Python's import system, None in `sys.modules`.
    """
    sys.modules.setdefault("mlflow", None)  # pyright: ignore[reportArgumentType]
