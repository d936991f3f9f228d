"""Why a version may have become, or be, worse here than is tolerated: what an alarm says beside its figures."""

from dataclasses import dataclass
from typing import Final

from client.store import versions
from client.store.site import Site
from client.store.versions import HeldVersion
from client.vigilance import drift
from client.vigilance.causes import Cause
from client.vigilance.sample import patients
from models.cohort import differences

_CAUSES: Final = {"sex": Cause.POPULATION, "age": Cause.POPULATION, "maker": Cause.TECHNIQUE}


@dataclass(frozen=True, slots=True)
class Explained:
    """A likely cause; `because` says in a few words what it rests on."""

    cause: Cause
    because: str


def explained(site: Site, held: HeldVersion) -> Explained:
    """What is known here that would explain a version's errors.

    A change of the studies goes first; else in what the patients and machines here differ from those that the version
    was trained on.
    """
    found = [one for one in drift.warnings(site) if one.name == held.name and not one.usual]
    if found:
        newest = found[0]
        return Explained(newest.cause, newest.differences[0] if newest.differences else "studies have changed")
    facts = versions.facts(site, held.digest)
    if facts is None or facts.cohort is None:
        return Explained(Cause.UNKNOWN, "")
    unlike = differences(facts.cohort, patients(site, held.name))
    if not unlike:
        return Explained(Cause.UNKNOWN, "")
    words = " and ".join("manufacturers" if name == "maker" else name for name in unlike)
    return Explained(_CAUSES[unlike[0]], f"{words} unlike those of the training cohort")
