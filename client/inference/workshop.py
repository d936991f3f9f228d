"""Where is kept what a machine makes and measures of versions, so that it need not do so again."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.store.site import Site


@dataclass(frozen=True, slots=True)
class Workshop:
    """Two folders; either may be emptied at any time.

    Attributes:
        engines: what is made and measured of networks, by the digest of a version (`contest.py`).
        measured: what is measured of preprocessing (`measured.py`).
    """

    engines: Path
    measured: Path


@contextmanager
def borrowed(site: Site) -> Generator[Workshop]:
    """A copy of a site's own, for whoever is to leave nothing in the site; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vigie-") as folder:
        copy = Workshop(Path(folder) / "engines", Path(folder) / "measured")
        for own, other in ((site.engines, copy.engines), (site.measured, copy.measured)):
            if own.is_dir():
                shutil.copytree(own, other)
        yield copy
