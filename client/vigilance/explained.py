"""Why a version may have become, or be, worse here than is tolerated: what an alarm says beside its figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from client.store import versions
from client.store.site import Site
from client.store.versions import HeldVersion
from client.vigilance import drift
from client.vigilance.causes import Cause
from client.vigilance.sample import patients
from models.cohort import Cohort, differences

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
    return unlike(facts.cohort if facts else None, patients(site, held.name))


def unlike(cohort: Cohort | None, strata: Mapping[str, int]) -> Explained:
    """In what patients and machines are unlike those that a version was trained on. Pure.

    Args:
        strata: patients here, by stratum.
    """
    found = () if cohort is None else differences(cohort, strata)
    if not found:
        return Explained(Cause.UNKNOWN, "")
    words = " and ".join("manufacturer" if name == "maker" else name for name in found)
    return Explained(_CAUSES[found[0]], f"{words} unlike the training cohort's")
