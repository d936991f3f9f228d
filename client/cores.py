"""How many processor cores this process may use: what the machine has, less what a container or systemd takes away."""

import os
from dataclasses import dataclass
from pathlib import Path

from client.cgroups import MOUNTED, OWN, folders


@dataclass(frozen=True, slots=True)
class Cores:
    """What may be used.

    Attributes:
        count: whole cores, at least 1.
        why: in words, e.g. "2 of 8 by the control group".
    """

    count: int
    why: str

    @property
    def to_compute(self) -> int:
        """Threads of one computation where nobody set them: one core is left to receive images and write results."""
        return max(1, self.count - 1)


def allowed(mounted: Path = MOUNTED, own: Path = OWN) -> Cores:
    """Ask affinity and the quotas of the control groups that this process lies in.

    `os.cpu_count` knows neither: in a container of two cores on a machine of 64 it makes threads for 64, which then
    wait for each other.

    Source: sched_getaffinity(2); Linux admin-guide/cgroup-v2 (cpu.max) and cgroup-v1 (cpu.cfs_quota_us).
    """
    machine = os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0))
    limits = (limit for folder in folders("cpu", mounted, own) for limit in (_v2(folder), _v1(folder)))
    quota = min((limit for limit in limits if limit is not None), default=None)
    if quota is not None and quota < bound:
        return Cores(max(1, int(quota)), f"{quota:g} of {machine} by the control group")
    if bound < machine:
        return Cores(bound, f"{bound} of {machine} by affinity")
    return Cores(machine, f"all {machine} of this machine")


def _v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
