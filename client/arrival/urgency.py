"""How urgent a study is, when it is due, and whose turn it is.

A study is as urgent as the most urgent word that counts of it: its images' own (Requested Procedure Priority, Study
Priority ID), its performed procedure step's, its order's, its sender's as the site has set it, a triage version's. When
it is complete it gets a deadline: the time that its class allows.

**Whose turn it is.** Earliest deadline first would be enough if the node could always keep up: then every deadline is
met that any order could meet. It cannot, after an outage say, and then hundreds of overdue routine studies would all
come before a fresh emergency. Strictly emergencies first would leave the others waiting for ever where emergencies do
not end. So emergencies come first, by their deadlines, and everything else by its deadline whatever its class; but
when something else is overdue, it gets a turn after every `PASSED` emergencies. An emergency is held up by one other
study at most for each `PASSED` emergencies before it, and once a study is overdue nothing that comes later can stand
before it but those emergencies: it is read within a number of turns that is known then (`tests/unit/test_urgency.py`).

Pure: no clock, no database; `priority.py` brings the words.

Source: DICOM PS3.3 C.4.11 (Requested Procedure Priority), PS3.3-2004 C.4.5 (Study Priority ID, retired), C.30.1
(Scheduled Procedure Step Priority); HL7 v2.5.1 tables 0027 and 0485 (priority of an order).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PASSED: Final = 4
_LONGEST_WORD: Final = 16


class Urgency(StrEnum):
    """The classes, most urgent first; these words are stored with the study."""

    EMERGENCY = "emergency"
    URGENT = "urgent"
    ROUTINE = "routine"


_RANK: Final = {urgency: rank for rank, urgency in enumerate(Urgency)}
_WORDS: Final = {
    "STAT": Urgency.EMERGENCY,
    "S": Urgency.EMERGENCY,  # HL7
    "EMERGENCY": Urgency.EMERGENCY,
    "HIGH": Urgency.URGENT,
    "ASAP": Urgency.URGENT,
    "A": Urgency.URGENT,  # HL7
    "URGENT": Urgency.URGENT,
    "MEDIUM": Urgency.ROUTINE,
    "MED": Urgency.ROUTINE,
    "ROUTINE": Urgency.ROUTINE,
    "R": Urgency.ROUTINE,  # HL7
    "LOW": Urgency.ROUTINE,
}


def understood(word: str) -> Urgency | None:
    """What somebody's word for a priority means; None where it is no word that we know."""
    return _WORDS.get(word.strip(" \0").upper()) if len(word) <= _LONGEST_WORD else None


def most_urgent(known: Iterable[Urgency]) -> Urgency:
    """The most urgent of some classes; routine where there is none."""
    return min(known, key=_RANK.__getitem__, default=Urgency.ROUTINE)


@dataclass(frozen=True, slots=True)
class Sender:
    """What a site says of the studies of one calling AE.

    Attributes:
        urgency: they are at least so urgent.
        seconds: allowed for those that nobody calls more urgent; None: what the class allows.
    """

    urgency: Urgency
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """A site's settings.

    Attributes:
        seconds: allowed for each class, from when a study is complete to its outcome.
        senders: by calling AE title.
    """

    seconds: Mapping[Urgency, float]
    senders: Mapping[str, Sender]

    def of_sender(self, calling_ae: str) -> Urgency:
        """The class that a sender's studies have if nobody says anything."""
        sender = self.senders.get(calling_ae)
        return sender.urgency if sender else Urgency.ROUTINE

    def allowed(self, urgency: Urgency, calling_ae: str) -> float:
        """Seconds within which a complete study is to be read."""
        sender = self.senders.get(calling_ae)
        if sender is not None and sender.seconds is not None and urgency is sender.urgency:
            return sender.seconds
        return self.seconds[urgency]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A study that waits: the one of its kind that is due first.

    Attributes:
        due_at: in the seconds of the caller's clock.
        first: an emergency that was not tried before. One that was may be what ends the process each time: it goes on
            with the others, by its deadline.
    """

    uid: str
    due_at: float
    first: bool


class Turns:
    """Whose turn it is, of what waits; remembers who was passed over."""

    def __init__(self) -> None:
        self._passed = 0  # emergencies in a row that were read while something else was overdue

    def next(self, heads: Iterable[Waiting], now: float) -> Waiting | None:
        """The study to read now, None where nothing waits.

        Args:
            heads: the first by deadline of the emergencies, and of the others; or everything that waits.
        """
        by_deadline = sorted(heads, key=lambda one: (one.due_at, one.uid))
        emergency = next((one for one in by_deadline if one.first), None)
        other = next((one for one in by_deadline if not one.first), None)
        overdue = other is not None and other.due_at <= now
        if emergency is None or (overdue and self._passed >= PASSED):
            self._passed = 0
            return other
        self._passed = self._passed + 1 if overdue else 0
        return emergency
