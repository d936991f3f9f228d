"""A hospital whose updates are summed: all of it is real but the training, and it is killed where `behaviour` says."""

import os
import signal
import sys
from pathlib import Path

import summing

import client.federation.site as served_by
from client.federation import group, launcher


def killed_at(step):
    """The step of a round, before or after which the process is killed, once or always: `mask-after`, `mask-always`."""
    work = getattr(group, step)

    def works(site, order):
        path = Path(os.environ["VIGIE_SITE"]) / "behaviour"
        behaviour = path.read_text()
        if behaviour == f"{step}-after":
            path.write_text("honest")
            work(site, order)
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == f"{step}-always":
            os.kill(os.getpid(), signal.SIGKILL)
        return work(site, order)

    return works


if __name__ == "__main__":
    served_by.train = summing.trained
    for name in ("mask", "unmask"):
        setattr(group, name, killed_at(name))
    sys.exit(launcher.main(resident=False))
