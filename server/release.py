"""The release gate: may this version be offered for adoption at all? Pure.

Evidence from the hospitals may stop a version here; it never adopts one: that is each hospital's own decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

from models.exchange import Evidence, Measure
from models.stats.disclosure import LEAST
from models.stats.intervals import UNKNOWN, Estimate, proportion


@dataclass(frozen=True, slots=True)
class ReleaseDecision:
    """Whether the version goes out, why not, whose evidence is missing, and how many hospitals could compare it."""

    released: bool
    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    compared: int


def decide(
    evidence: Mapping[str, Evidence], sites: Sequence[str], quorum: int, *, must_compare: bool = True
) -> ReleaseDecision:
    """Decide on a version from what the hospitals reported.

    Blocked when fewer than the quorum reported, when a hospital has shown it to be worse beyond the margin, when it
    failed a hospital's acceptance test, or when it is not better than what is served, on average over the hospitals.

    Args:
        evidence: by site.
        sites: the hospitals asked.
        quorum: how many have to report.
        must_compare: a retrained version that no hospital could compare is blocked; only a first one has nothing to
            be compared with.
    """
    missing = tuple(site for site in sites if site not in evidence)
    reasons: list[str] = []
    if len(evidence) < quorum:
        reasons.append(f"quorum: {len(evidence)} of {quorum} hospitals reported")
    for site, found in sorted(evidence.items()):
        if "sensitivity-inferior" in found.reasons:
            reasons.append(f"{site}: sensitivity is shown to be worse beyond the margin")
        if "specificity-inferior" in found.reasons:
            reasons.append(f"{site}: specificity is shown to be worse beyond the margin")
        if "self-test-failed" in found.reasons:
            reasons.append(f"{site}: the version does not reproduce its own reference scores there")
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
    return Estimate(nan, proportion(least, trials).low, proportion(most, trials).high)


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
