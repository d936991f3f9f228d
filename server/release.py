"""The release gate: may this version be offered for adoption at all? Pure.

Evidence from the hospitals may stop a version here; it never adopts one: that is each hospital's own decision. What is
missing is listed, and not read as good.

Where layers stay at the hospitals, a hospital that trained judges its own form of the version, and "worse at a
hospital" means: what would serve there is worse than what serves there now. What such evidence does not say is how good
the version is without anybody's layers; only hospitals that judged it as it is say that (`told_of_forms`).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from scipy.special import ndtri

from models.exchange import Evidence, Leakage, Measure, Reason
from models.fairness import worse
from models.stats.disclosure import LEAST
from models.stats.intervals import UNKNOWN, Estimate, proportion

_STOPS: Final[Mapping[Reason, str]] = {
    "sensitivity-inferior": "sensitivity is shown to be worse beyond the margin",
    "specificity-inferior": "specificity is shown to be worse beyond the margin",
    "certified-inferior": "it is shown to be worse than the first certified version beyond the margin",
    "self-test-failed": "the version does not reproduce its own reference scores there",
}
_LEAKS: Final[Mapping[Leakage | None, str]] = {
    "folds-altered": "leakage: a patient is in another fold than the one drawn",
    "same-image": "leakage: a training picture is in the random sample, too",
    "trained-on": "leakage: an earlier retraining learned from a case of the random sample",
}


@dataclass(frozen=True, slots=True)
class ReleaseDecision:
    """Whether the version goes out, why not, whose evidence is missing, and how many hospitals could compare it."""

    released: bool
    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    compared: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What stops a version.

    Attributes:
        alpha: one-sided, of what has to be *shown* to be worse.
        brier_margin: by which the mean Brier score may be worse.
        same_sites: a hospital that was in one round and not in another stops it.
    """

    alpha: float = 0.025
    brier_margin: float = 0.02
    same_sites: bool = True


RULES: Final = Rules()


def decide(
    evidence: Mapping[str, Evidence],
    sites: Sequence[str],
    quorum: int,
    *,
    must_compare: bool = True,
    rounds: Sequence[Collection[str]] = (),
    agreed: Sequence[str] = (),
    named: Sequence[str] = (),
    rules: Rules = RULES,
) -> ReleaseDecision:
    """Decide on a version from what the hospitals reported.

    Blocked when fewer than the quorum reported or trained, when the hospitals that trained were not the same in all
    rounds, when a hospital has shown it to be worse beyond the margin, when it failed a hospital's acceptance test or
    may have been tested on what it was trained on, when it is shown to be worse in a subgroup or worse calibrated over
    all hospitals, or when it is not better than what is served, on average over the hospitals.

    Args:
        evidence: by site.
        sites: the hospitals asked.
        quorum: how many have to report.
        must_compare: a retrained version that no hospital could compare is blocked; only a first one has nothing to
            be compared with.
        rounds: the hospitals whose updates went into each round, in order.
        agreed: those that agreed to train; one of them that is in no round counts as dropped out.
        named: those without whom the quorum is not met.
    """
    missing = tuple(site for site in sites if site not in evidence)
    reasons: list[str] = []
    if len(evidence) < quorum:
        reasons.append(f"quorum: {len(evidence)} of {quorum} hospitals reported")
    if lacking := [site for site in named if site not in evidence]:
        reasons.append(f"quorum: {', '.join(lacking)} has to report, and did not")
    reasons += _composition(sites, quorum, rounds, agreed, same=rules.same_sites)
    for site, found in sorted(evidence.items()):
        reasons += [f"{site}: {text}" for reason, text in _STOPS.items() if reason in found.reasons]
        if found.leakage in _LEAKS:
            reasons.append(f"{site}: {_LEAKS[found.leakage]}")
    told = [found.subgroups.changes() for found in evidence.values() if found.subgroups is not None]
    for group, rate, difference in worse(told, rules.alpha):
        reasons.append(f"unfair: {rate} of {group} is shown to be worse beyond the margin ({difference:+.3f})")
    reasons += _calibrated(evidence, rules)
    pairs = [
        (found.served_gate.auc, found.candidate_gate.auc)
        for found in evidence.values()
        if found.served_gate is not None and found.candidate_gate is not None
    ]
    known = [(old, new) for old, new in pairs if old is not None and new is not None]
    if known:
        before, after = fmean(old for old, _ in known), fmean(new for _, new in known)
        if after <= before:
            reasons.append(f"not better overall: mean AUC over {len(known)} hospitals {before:.3f} → {after:.3f}")
    elif must_compare:
        reasons.append("no hospital could compare it with what is served: missing evidence is not good evidence")
    return ReleaseDecision(not reasons, tuple(reasons), missing, len(known))


def told_of_forms(evidence: Mapping[str, Evidence]) -> str:
    """What the hospitals judged, in words, where one of them judged its own form of the version; empty where none did.

    Where nobody judged the version as it is, nobody knows how good that is: a hospital that gets it later asks its own
    gate.
    """
    own = sorted(site for site, found in evidence.items() if found.personal is not None)
    plain = sorted(evidence.keys() - set(own))
    if not own:
        return ""
    return f"in a form of their own: {', '.join(own)}; as it is: {', '.join(plain) or 'nobody'}"


def _composition(
    sites: Sequence[str], quorum: int, rounds: Sequence[Collection[str]], agreed: Sequence[str], *, same: bool
) -> list[str]:
    """What is wrong with who trained."""
    reasons: list[str] = []
    for number, trained in enumerate(rounds, 1):
        if strangers := sorted(set(trained) - set(sites)):
            reasons.append(f"quorum: round {number} has an update of {', '.join(strangers)}, who is not in the plan")
        if len(trained) < quorum:
            reasons.append(f"quorum: {len(trained)} of {quorum} hospitals trained in round {number}")
    everybody: set[str] = set().union(agreed, *rounds) if rounds else set()
    absent = {site: [n for n, trained in enumerate(rounds, 1) if site not in trained] for site in sorted(everybody)}
    if same:
        for site, numbers in absent.items():
            if len(numbers) == len(rounds):
                reasons.append(f"composition changed: {site} agreed, and trained in no round")
            elif numbers:
                listed = ", ".join(map(str, numbers))
                reasons.append(f"composition changed: {site} trained, but not in round {listed}")
    return reasons


def _calibrated(evidence: Mapping[str, Evidence], rules: Rules) -> list[str]:
    """Whether scores mean less than before, over all hospitals; each counts by its cases."""
    known = [
        (found.candidate_gate.n, found.brier_change, found.brier_error)
        for found in evidence.values()
        if found.candidate_gate is not None and found.brier_change is not None and found.brier_error is not None
    ]
    cases = sum(n for n, _, _ in known)
    if not cases:
        return []
    change = sum(n * difference for n, difference, _ in known) / cases
    error = math.sqrt(sum((n * one) ** 2 for n, _, one in known)) / cases
    low = change - float(ndtri(1 - rules.alpha)) * error
    if low <= rules.brier_margin:
        return []
    return [
        f"calibration: the mean Brier score is shown to be worse by more than {rules.brier_margin:g} ({change:+.3f})"
    ]


def figures(measure: Measure) -> dict[str, float]:
    """The quantities that are tracked of a version at a hospital, each proportion with its exact 95 % interval.

    `sensitivity` and `specificity` are at the hospital's own threshold, `vendor_…` at the vendor's. Where counts are
    too small to have left the hospital there is no value, and the interval is that of all counts that they may be.
    """
    found: dict[str, float] = {"n": measure.n, "n_positive": measure.n_positive, "threshold": measure.threshold}
    for prefix in ("", "vendor_"):
        for name, right, wrong, trials in (
            ("sensitivity", "tp", "fn", measure.n_positive),
            ("specificity", "tn", "fp", measure.n - measure.n_positive),
        ):
            found |= _with_interval(prefix + name, _proportion(measure, prefix + right, prefix + wrong, trials))
    if measure.auc is not None and measure.auc_low is not None and measure.auc_high is not None:
        found |= _with_interval("auc", Estimate(measure.auc, measure.auc_low, measure.auc_high))
    if measure.brier is not None:
        found["brier"] = measure.brier
    return found


def _proportion(measure: Measure, right: str, wrong: str, trials: int) -> Estimate:
    successes: int | None = getattr(measure, right)
    if successes is not None:
        return proportion(successes, trials)
    few: tuple[str, ...] = measure.few
    least = max(trials - LEAST + 1, 0) if wrong in few else 0
    most = min(LEAST - 1, trials) if right in few else trials
    if (least, most) == (0, trials):
        return UNKNOWN
    return Estimate(math.nan, proportion(least, trials).low, proportion(most, trials).high)


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
