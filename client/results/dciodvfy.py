"""dicom3tools' checker of modules and attribute types, where it is installed: a second opinion on objects of ours.

Source: dciodvfy(1), https://www.dclunie.com/dicom3tools/dciodvfy.html
"""

import logging
import re
import shutil
import subprocess
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydicom.datadict import keyword_for_tag

log = logging.getLogger(__name__)

_SECONDS: Final = 10.0
_TAG: Final = re.compile(r"\((?:0x)?([0-9a-fA-F]{4}),(?:0x)?([0-9a-fA-F]{4})\)")
# what a modality wrote stands in our objects as it does in its own: not a reason to hold a result back
_COPIED_GROUPS: Final = ("0010",)
_COPIED: Final = (
    "00080020",
    "00080030",
    "00080050",
    "00080051",
    "00080090",
    "00081030",
    "00080201",
    "0020000D",
    "00200010",
    "00200052",
    "00201040",
    "00200060",
    "00280301",
    "00282110",
    "00282112",
    "00282114",
)
# its images and series are named by the UIDs that it gave them; whether ours are any is looked at in `conformity`
_COPIED_UIDS: Final = ("0020000E", "00081155", "0040A124", "30060024")
_NO_UID: Final = "Value invalid for this VR [UI]"
_MOST_SHAPES: Final = 4096


class Checker:
    """Runs the program on one object of each shape, and remembers the shapes that it has nothing against."""

    def __init__(self) -> None:
        self._passed: set[str] = set()
        self._lock = threading.Lock()

    def problems(self, path: Path, shape: str) -> tuple[str, ...]:
        """What it calls an error in the file; empty also where it is not installed or does not answer."""
        program = _program()
        with self._lock:
            if program is None or shape in self._passed:
                return ()
        try:
            told = subprocess.run(
                [program, "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("dciodvfy gave no answer (%s)", type(error).__name__)
            return ()
        found = errors(told.stderr)
        if not found:
            with self._lock:
                if len(self._passed) >= _MOST_SHAPES:
                    self._passed.clear()
                self._passed.add(shape)
        return found


def errors(said: str) -> tuple[str, ...]:
    """Errors in what the program said, each by its attribute and without any value."""
    found: dict[str, None] = {}
    for line in said.splitlines():
        if not line.startswith("Error"):
            continue
        tags = ["".join(parts).upper() for parts in _TAG.findall(line)]
        if any(tag in _COPIED or tag[:4] in _COPIED_GROUPS for tag in tags[:1] + tags[-1:]):
            continue
        if _NO_UID in line and tags and tags[-1] in _COPIED_UIDS:
            continue
        where = keyword_for_tag(int(tags[-1], 16)) if tags else ""
        what = line.rpartition(" - ")[2].partition(" = <")[0].partition("<")[0].strip()
        found[f"dciodvfy: {where}{': ' if where else ''}{what}"[:200]] = None
    return tuple(found)


@lru_cache(maxsize=1)
def _program() -> str | None:
    return shutil.which("dciodvfy")
