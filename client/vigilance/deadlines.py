"""By when an incident has to be told, and by whom. Pure.

Days are calendar days where the hospital is: the day on which somebody became aware is day 0, and a deadline ends with
its last day, whether or not clocks change until then. One that falls on a Sunday is not moved: too early harms nobody.

Source: Regulation (EU) 2017/745, article 87 (3) to (5), for manufacturers: 15 days for a serious incident, 10 for death
or an unanticipated serious deterioration, 2 for a serious public health threat, from when they became aware. Users:
Code de la santé publique, L. 5212-2: without delay.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Final, Literal

State = Literal["done", "done_late", "overdue", "soon", "open"]


class Severity(StrEnum):
    """How serious an incident is, as article 87 has it."""

    SERIOUS = "serious"
    DETERIORATION = "deterioration"
    PUBLIC_HEALTH = "public_health"
    NOT_SERIOUS = "not_serious"


MEANINGS: Final = {
    Severity.SERIOUS: "serious incident",
    Severity.DETERIORATION: "death, or unanticipated serious deterioration of health",
    Severity.PUBLIC_HEALTH: "serious public health threat",
    Severity.NOT_SERIOUS: "not serious",
}
DAYS: Final = {Severity.SERIOUS: 15, Severity.DETERIORATION: 10, Severity.PUBLIC_HEALTH: 2}
_SOON: Final = 2 * 86400.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """Who has to tell by when.

    Attributes:
        who: user (this hospital), or manufacturer.
        at: seconds since the epoch, after which it is late.
        assumed: nobody has told the manufacturer yet: it would be so, had they become aware when this hospital did.
    """

    who: Literal["user", "manufacturer"]
    at: float
    assumed: bool = False

    def state(self, now: float, done: float | None) -> State:
        """Where it stands; `soon` is within two days.

        Args:
            done: when it was told; None: not yet.
        """
        if done is not None:
            return "done" if done <= self.at else "done_late"
        if now > self.at:
            return "overdue"
        return "soon" if self.at - now < _SOON else "open"


def deadlines(severity: Severity, aware: float, told: float | None, zone: tzinfo | None = None) -> tuple[Deadline, ...]:
    """The deadlines of an incident.

    Args:
        aware: when this hospital became aware, seconds since the epoch.
        told: when this hospital told the manufacturer; None: not yet.
        zone: where the hospital is; None: where the machine is set to be.
    """
    days = DAYS.get(severity)
    if days is None:  # nobody has to be told
        return ()
    return Deadline("user", _end(aware, 0, zone)), Deadline(
        "manufacturer", _end(aware if told is None else told, days, zone), told is None
    )


def _end(moment: float, days: int, zone: tzinfo | None) -> float:
    """The last second of the day so many days after a moment."""
    last = datetime.fromtimestamp(moment, zone).date() + timedelta(days=days)
    return datetime.combine(last, time(23, 59, 59), zone).timestamp()
