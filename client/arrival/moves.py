"""Which of what comes from the PACS comes because of a C-MOVE of ours.

A C-STORE that a C-MOVE brings about names who asked for it (PS3.7 9.1.1.1, Move Originator Application Entity Title),
but may leave that out, and then looks like what the PACS sends to be read. Taken for a prior, such a study would never
be read; read without need, it costs a reading. So what names nobody is a prior only while our C-MOVE for just that
study is open, and stays one only where all of it is accounted for: the C-MOVE went well, brought nothing that names us,
and no more came than the PACS says it has sent for it.
"""

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class _Open:
    named: int = 0
    unnamed: int = 0


class Moves:
    """Shared by whoever asks, and the doors that what was asked for comes in by."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._doubted: set[str] = set()
        self._named = False

    def begin(self, study_uid: str) -> None:
        """A C-MOVE for a study is about to be asked for."""
        with self._lock:
            self._open[study_uid] = _Open()

    def end(self, study_uid: str, sent: int | None) -> bool:
        """The C-MOVE is over; whether something came meanwhile that the PACS may have sent to be read.

        Args:
            sent: how many images the PACS says that it has sent for it; None where it failed, or does not say.
        """
        with self._lock:
            came = self._open.pop(study_uid)
            doubted = came.unnamed > 0 and (came.named > 0 or sent is None or came.unnamed > sent)
            if doubted:
                self._doubted.add(study_uid)
            return doubted

    def takes(self, study_uid: str) -> bool:
        """Whether an image that names nobody may be of our C-MOVE: never from a PACS that is known to name us."""
        with self._lock:
            came = self._open.get(study_uid)
            if came is None or self._named or study_uid in self._doubted:
                return False
            came.unnamed += 1
            return True

    def named(self, study_uid: str) -> None:
        """An image has come that names us."""
        with self._lock:
            self._named = True
            if came := self._open.get(study_uid):
                came.named += 1

    def doubted(self, study_uid: str) -> bool:
        """Whether a C-MOVE ended in doubt: what came because of it, and is filed only now, is to be read too."""
        with self._lock:
            return study_uid in self._doubted
