"""A round of which the coordinator learns the sum alone: three exchanges with the hospitals.

    group-train ─► keys of the round, encrypted parts     whoever has none is not in this attempt
    mask        ─► masked updates                         whoever has none is dead; the sum goes to the journal
    unmask      ─► parts that take the masks off the sum  more than two thirds of the group have to answer

An attempt that ends before its masked sum is in the journal is begun anew, with other keys: hospitals train no second
time for it. One whose sum is there is gone on with, whatever happens, because they unmask one sum a round alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models import group, masks, shares, summand
from models.errors import VigieError
from models.exchange import Masked, MaskOrder, Order, Sealed, Unmasked, UnmaskOrder, digest
from models.group import Group
from models.summand import Figures
from server.aggregation import Aggregation
from server.journal import Journal, read
from server.messaging import ABSENT, LATER, MALFORMED, Failure
from server.plan import Plan, QuorumMissed

log = logging.getLogger(__name__)

HELP = 3  # how often a hospital is asked that may help to unmask and did not answer


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


@dataclass(frozen=True, slots=True)
class Members:
    """The group, and the signature of each hospital under its key."""

    group: Group
    identities: Mapping[str, bytes]
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Summed:
    """What a round brought.

    Attributes:
        cases: of each hospital in the sum, to the power of two below.
        failures: why the others are not in it.
        figures: how the received weights did, on average over the sum.
    """

    cases: dict[str, int]
    failures: dict[str, str]
    figures: Figures
    seconds: float


def members(journal: Journal, plan: Plan, terms: str, identities: Mapping[str, bytes]) -> Members:
    """The group of a retraining: of the first round's agreements, and the same whenever it is resumed.

    Args:
        terms, identities: digest of the terms, and who the hospitals are in them.

    Raises:
        QuorumMissed: fewer agreed than make a sum.
    """
    line: dict[str, Any] | None = journal.last("group")
    if line is None:
        given: dict[str, list[str]] = (journal.last("consents") or {}).get("keys", {})
        keys = {site: (bytes.fromhex(key), bytes.fromhex(signature)) for site, (key, signature) in given.items()}
        good = [
            site
            for site in sorted(plan.sites)
            if site in keys and group.holds_agreement(identities[site], keys[site][1], terms, site, keys[site][0])
        ]
        if len(good) < (needed := max(group.FEWEST, plan.quorum)):
            raise QuorumMissed(f"{len(good)} hospitals gave a key for sums: {needed} are needed")
        line = {"terms": terms, "sites": good, "keys": [keys[site][0].hex() for site in good]}
        line["signatures"] = [keys[site][1].hex() for site in good]
        journal.write("group", line)
    found = Group(line["terms"], tuple(line["sites"]), tuple(bytes.fromhex(key) for key in line["keys"]))
    return Members(found, identities, tuple(bytes.fromhex(one) for one in line["signatures"]))


def conduct(
    hospitals: Hospitals, journal: Journal, plan: Plan, aggregation: Aggregation, who: Members, number: int
) -> Summed:
    """One round, from wherever its journal ends; the aggregation has the next weights afterwards.

    Raises:
        QuorumMissed: too few answered at one of the steps.
        BorderRefused: the sum is none of what hospitals may add.
    """
    line, seconds = journal.last("masked"), 0.0
    if line is None or line["round"] != number:
        seconds = _collect(hospitals, journal, plan, aggregation, who, number)
        line = journal.last("masked")
    assert line is not None
    context, active, dead = line["context"], list(line["sites"]), list(line["dead"])
    if context != who.group.context(number, int(line["attempt"]), digest(aggregation.moving)):
        raise VigieError(f"round {number}: what was summed started from other weights than the journal's")
    order = UnmaskOrder(
        retraining=plan.name, round=number, attempt=line["attempt"], active=tuple(active), dead=tuple(dead)
    )
    given, failures, took = _help(hospitals, order, who.group.threshold, plan.deadline_seconds)
    if len(given) < who.group.threshold:
        raise _missed(journal, number, failures, _stuck(plan.name, who.group.threshold, given, failures))
    total = _unmasked(journal.load_sum(number), line, who.group, given, order)
    asked = len(active) + len(dead)
    inexact = masks.step(asked)
    figures = aggregation.take_sum(
        masks.restored(total, len(active), asked), len(active), inexact, sum(line["sites"].values())
    )
    return Summed(dict(line["sites"]), dict(line["failures"]), figures, seconds + took)


def _help(
    hospitals: Hospitals, order: UnmaskOrder, threshold: int, seconds: float
) -> tuple[dict[str, Unmasked], dict[str, str], float]:
    """The hospitals' parts, why the others gave none, and how long it took.

    One that is away for a moment is asked again: here nobody else can take its place.
    """
    given, failures, took = dict[str, Unmasked](), dict.fromkeys(order.active, ABSENT), 0.0
    for _ in range(HELP):
        again = [site for site, code in failures.items() if code in LATER]
        if len(given) >= threshold or not again or took >= seconds:
            break
        answered = hospitals.send_and_receive(dict.fromkeys(again, order), seconds - took)
        took += float(answered.seconds)
        for site, found in answered.results.items():
            if isinstance(found, Unmasked):
                given[site] = found
                del failures[site]
            else:
                failures[site] = found.code if isinstance(found, Failure) else MALFORMED
    return given, failures, took


def _stuck(name: str, threshold: int, given: Mapping[str, Unmasked], failures: Mapping[str, str]) -> str:
    """What became of a sum that too few helped to unmask, and what a person can do."""
    missing = " or ".join(sorted(failures))
    return (
        f"{len(given)} of {threshold} hospitals helped to unmask. The sum is kept: `vigie retrain resume {name}` goes "
        f"on with it once {missing} answers again. Should that never be, this retraining cannot end, because hospitals "
        "unmask no other sum of this round: launch another one without whoever is gone"
    )


def _collect(
    hospitals: Hospitals, journal: Journal, plan: Plan, aggregation: Aggregation, who: Members, number: int
) -> float:
    """Bring a sum of masked updates into the journal; returns how many seconds it took."""
    attempt = 1 + sum(line["step"] == "attempt" and line["round"] == number for line in read(journal.folder))
    journal.write("attempt", {"round": number, "attempt": attempt})
    context = who.group.context(number, attempt, digest(aggregation.moving))
    asked = [site for site in who.group.sites if site in plan.sites]
    trained = hospitals.send_and_receive(
        {site: aggregation.group_order(number, site, attempt, who.group, who.signatures) for site in asked},
        plan.deadline_seconds,
    )
    failures = {site: found.code for site, found in trained.results.items() if not isinstance(found, Sealed)}
    sealed: dict[str, Sealed] = {}
    for site, found in trained.results.items():
        if isinstance(found, Sealed):
            if group.holds_round(who.identities[site], found.signature, context, site, found.given):
                sealed[site] = found
            else:  # the others would refuse the whole round for it
                failures[site] = MALFORMED
    _require(journal, plan, who.group, number, {site: one.n_cases for site, one in sealed.items()}, failures)
    answered = hospitals.send_and_receive(
        {site: _mask_order(plan.name, number, attempt, who.group, sealed, site) for site in sealed},
        plan.deadline_seconds,
    )
    length = summand.length(aggregation.moving, aggregation.bounds)
    vectors = {
        site: found.vector
        for site, found in answered.results.items()
        if isinstance(found, Masked) and len(found.vector) == length
    }
    for site, found in answered.results.items():
        if site not in vectors:
            failures[site] = MALFORMED if isinstance(found, Masked) else found.code
    cases = {site: sealed[site].n_cases for site in sorted(vectors)}
    _require(journal, plan, who.group, number, cases, failures)
    journal.save_sum(number, masks.summed(vectors.values()))
    journal.write(
        "masked",
        {
            "round": number,
            "attempt": attempt,
            "context": context,
            "occasion": group.occasion(context, {site: one.given for site, one in sealed.items()}),
            "sites": cases,
            "dead": sorted(set(sealed) - set(vectors)),
            "keys": {site: one.key.hex() for site, one in sealed.items()},
            "commitments": {site: one.commitment for site, one in sealed.items()},
            "failures": dict(sorted(failures.items())),
        },
    )
    return float(trained.seconds + answered.seconds)


def _mask_order(
    name: str, number: int, attempt: int, whole: Group, sealed: Mapping[str, Sealed], site: str
) -> MaskOrder:
    """What one hospital is told of those who trained."""
    sites = tuple(sorted(sealed))
    return MaskOrder(
        retraining=name,
        round=number,
        attempt=attempt,
        sites=sites,
        keys=tuple(sealed[other].key for other in sites),
        commitments=tuple(sealed[other].commitment for other in sites),
        cases=tuple(sealed[other].n_cases for other in sites),
        signatures=tuple(sealed[other].signature for other in sites),
        shares=tuple(sealed[other].shares[whole.others(other).index(site)] for other in sites if other != site),
    )


def _unmasked(
    total: masks.Integers, line: Mapping[str, Any], whole: Group, given: Mapping[str, Unmasked], order: UnmaskOrder
) -> masks.Integers:
    """The sum without masks.

    Raises:
        VigieError: parts of a secret do not fit each other.
    """
    occasion, keys = str(line["occasion"]), {site: bytes.fromhex(key) for site, key in line["keys"].items()}
    number = {site: index + 1 for index, site in enumerate(whole.sites)}
    seeds: dict[str, bytes] = {}
    for place, site in enumerate(order.active):
        parts = {number[helper]: one.seeds[place] for helper, one in given.items()}
        committed = line["commitments"][site]
        seed = shares.joined(parts, whole.threshold, lambda found, right=committed: group.commitment(found) == right)
        seeds[site] = _found(seed, site)
    lost: dict[tuple[str, str], bytes] = {}
    for place, dead in enumerate(order.dead):
        parts = {number[helper]: one.keys[place] for helper, one in given.items()}
        scalar = shares.joined(parts, whole.threshold, lambda found, right=keys[dead]: _is_key(found, right))
        key = group.private(_found(scalar, dead))
        lost |= {(site, dead): masks.agreed(key, keys[site]) for site in order.active}
    return masks.unmasked(total, occasion, seeds, lost)


def _is_key(scalar: bytes, public: bytes) -> bool:
    try:
        return group.point(group.private(scalar)) == public
    except VigieError:
        return False


def _found(secret: bytes | None, site: str) -> bytes:
    if secret is None:
        raise VigieError(f"the hospitals' parts of the secret of {site!r} do not fit each other")
    return secret


def _require(
    journal: Journal, plan: Plan, whole: Group, number: int, cases: Mapping[str, int], failures: Mapping[str, str]
) -> None:
    lacks = plan.lacks(cases)
    if not lacks and len(cases) < whole.threshold:
        lacks = f"{len(cases)} hospitals are left, and a sum needs {whole.threshold} of {len(whole.sites)}"
    if lacks:
        raise _missed(journal, number, failures, lacks)


def _missed(journal: Journal, number: int, failures: Mapping[str, str], why: str) -> QuorumMissed:
    journal.write("quorum-missed", {"round": number, "failures": dict(sorted(failures.items())), "why": why})
    return QuorumMissed(f"round {number}: {why}")
