"""When a result takes the place of an earlier one of its study, and when the two stand beside each other.

It does only where it covers it: the same finding of the same person, by a version that has read all that the earlier
one was made from. An image may become unreadable, and another model may read others of the study: whoever is told of
the last result alone would then not hear of what the first one found.

Pure; what was decided stands in the table `succession`, once and for all. A result that was withdrawn takes nobody's
place, because its version was recalled and nobody signed it, or a reader has rejected it: the earlier one is then the
only one that the PACS shows, and nobody may have answered it. That is looked at each time (`replaced`).
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists

from client.dicom.person import Person, differ
from client.store.tables import recall, succession, verdict


@dataclass(frozen=True, slots=True)
class Reach:
    """What a result speaks of.

    Attributes:
        name: of the model, whatever the number of the version.
        finding: its coded finding, scheme and value; None where it is not known any more.
        person: as the image says on which the result rests.
        read: the series that were outlined, or the images that were scored, by UID; None where a release before this
            one did not write it down.
        partial: not all of the study was there, or could be read.
    """

    name: str
    finding: tuple[str, str] | None
    person: Person
    read: frozenset[str] | None
    partial: bool


def covers(later: Reach, earlier: Reach) -> bool:
    """Whether a result takes the place of an earlier one; of what is not known, only where it has read everything."""
    same = later.name == earlier.name or (later.finding is not None and later.finding == earlier.finding)
    if not same or differ(later.person, earlier.person):
        return False
    if later.read is None or earlier.read is None:
        return not later.partial
    return earlier.read <= later.read


def replaced(earlier: Any) -> Any:
    """SQL: whether a result that still counts has taken the place of one.

    Args:
        earlier: the column with the identifier of its outcome.
    """
    taken_back = exists().where(recall.c.outcome_id == succession.c.later_id, recall.c.action == "withdrawn")
    return exists().where(succession.c.earlier_id == earlier, ~taken_back, ~rejected(succession.c.later_id))


def rejected(result: Any) -> Any:
    """SQL: whether any reader's last word on a result is a rejection.

    Args:
        result: the column with the identifier of its outcome.
    """
    given, later = verdict.alias("rejecting"), verdict.alias("rethinking")
    undone = exists().where(
        later.c.outcome_id == given.c.outcome_id, later.c.reader == given.c.reader, later.c.id > given.c.id
    )
    return exists().where(given.c.outcome_id == result, given.c.decision == "reject", ~undone)
