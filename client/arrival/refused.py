"""The images of studies that this node has refused, so that a study of which it took a half is not read as a whole.

Whoever is told to come again may do so a minute later, or never: many a modality shows a failed transmission to nobody.
What stayed outside is known to be missing then, as if a procedure step had listed it.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

_MOST_STUDIES: Final = 1000
_MOST_IMAGES: Final = 5000  # of a study; more are as missing as these


class Refused:
    """SOP instance UIDs by study; of the running process, for no disk may have room for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._studies: OrderedDict[str, set[str]] = OrderedDict()
        self._fresh: set[str] = set()

    def note(self, study_uid: str, sop_uid: str) -> None:
        """An image was refused, for a reason that is none of its own."""
        with self._lock:
            images = self._studies.setdefault(study_uid, set())
            self._studies.move_to_end(study_uid)
            if len(images) < _MOST_IMAGES and sop_uid not in images:
                images.add(sop_uid)
                self._fresh.add(study_uid)
            if len(self._studies) > _MOST_STUDIES:
                forgotten, _ = self._studies.popitem(last=False)
                self._fresh.discard(forgotten)

    def came(self, study_uid: str, sop_uid: str) -> None:
        """It is here now."""
        with self._lock:
            images = self._studies.get(study_uid)
            if images is not None:
                images.discard(sop_uid)
                if not images:
                    del self._studies[study_uid]

    def of(self, study_uid: str) -> frozenset[str]:
        """What of a study was refused and has not come since, over a door of this node."""
        with self._lock:
            return frozenset(self._studies.get(study_uid, ()))

    def fresh(self) -> frozenset[str]:
        """The studies of which images were refused that had not been before, since this was asked last."""
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            return frozenset(fresh)

    def again(self, study_uids: Iterable[str]) -> None:
        """What was to be done about these could not be done yet."""
        with self._lock:
            self._fresh.update(study_uids)
