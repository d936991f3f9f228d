"""The control groups that this process lies in: what a container or systemd takes away of the machine.

Source: Linux admin-guide/cgroup-v2, cgroup-v1; cgroups(7).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOUNTED: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")


def folders(controller: str, mounted: Path = MOUNTED, own: Path = OWN) -> Iterator[Path]:
    """Where limits of a controller may stand, of version 2 and 1: ours first, up to the root, for each binds all below.

    Inside a container the path may be the host's, and only the root is there.

    Args:
        controller: as the kernel names it, e.g. `cpu`, `memory`.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, place = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # of version 1 the mount has the name of all its controllers, and each one's is a link to it
        for root in dict.fromkeys([mounted / controllers, mounted / controller]) if controllers else [mounted]:
            folder = root / place.lstrip("/")
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(root))
