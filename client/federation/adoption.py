"""The adoption gate: this hospital's own cases decide whether a version may serve here.

Gate and test cases are those of patients drawn by a keyed hash before anyone read them. The gate looks once at a
candidate; asked again, the hospital gives the same answer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.federation.cases import ReusableCases, labels, tensors
from client.inference.engine import Engine
from client.inference.panel import load
from client.store import versions
from client.store.site import Site
from client.vigilance.register import Case
from models.bundle import Bundle, from_archive
from models.errors import BundleRefused, NotFound
from models.exchange import Decision, Evidence, Measure, Offer, Release
from models.gate import Case as GateCase
from models.gate import GateReason, GateVerdict, Margins, adoption
from models.signing import load_trust
from models.stats.intervals import Bools, Floats, auc
from models.stats.threshold import balanced


@dataclass(frozen=True, slots=True)
class _Answers:
    """What one version says to the cases of one fold."""

    cases: Sequence[Case]
    positive: Bools
    scores: Floats
    threshold: float
    vendor_threshold: float

    @property
    def calls(self) -> Bools:
        return self.scores >= self.threshold


def judge(site: Site, offer: Offer) -> Evidence:
    """Take in an offered version, compare it with the served one, and keep the verdict.

    Raises:
        BundleRefused: not the version announced, not signed by anyone trusted here, or altered.
    """
    bundle = from_archive(offer.bundle, site.versions, load_trust(site.trust))
    if bundle.digest != offer.digest:
        raise BundleRefused("the bundle is not the version that was announced")
    known = versions.receive(site, bundle)
    if known.decision is not None:
        told = evidence_held(site, bundle.digest).model_copy(update={"retraining": offer.retraining})
        # in shadow nothing was decided yet; against another incumbent it is another question
        if told.verdict != "shadow" and _still(site, told):
            return told
    evidence, threshold = _compare(site, offer, bundle)
    versions.note_decision(site, bundle.digest, evidence.model_dump(mode="json"), threshold)
    return evidence


def settle(site: Site, release: Release) -> Decision:
    """Adopt, refuse or keep in shadow, by the release and by what the gate here said.

    Raises:
        NotFound: the version was never offered here.
    """
    known = versions.find(site, release.digest)
    if known is None or known.decision is None:
        raise NotFound("the version was never offered here")
    evidence = evidence_held(site, release.digest)
    if not release.released:
        versions.put(site, release.digest, "refused", "not-released")
        return Decision(
            retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("not-released",)
        )
    if known.state == "withdrawn":  # recalled here by a person: nobody outside brings it back
        return Decision(
            retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("site-policy",)
        )
    match evidence.verdict:
        case "adopt" if not _still(site, evidence):
            versions.put(site, release.digest, "refused", "incumbent-changed")
            return Decision(
                retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("incumbent-changed",)
            )
        case "adopt":
            versions.adopt(site, release.digest)
            outcome = "adopted"
        case "shadow":
            versions.put(site, release.digest, "shadow", ",".join(evidence.reasons))
            outcome = "shadow"
        case "refuse":
            versions.put(site, release.digest, "refused", ",".join(evidence.reasons))
            outcome = "refused"
    return Decision(retraining=release.retraining, digest=release.digest, outcome=outcome, reasons=evidence.reasons)


def evidence_held(site: Site, digest: str) -> Evidence:
    """What the gate said of a version, with all counts: for this hospital's own people.

    Raises:
        NotFound: the version was never judged here.
    """
    known = versions.find(site, digest)
    if known is None or known.decision is None:
        raise NotFound("the version was never judged here")
    return Evidence.model_validate_json(json.dumps(known.decision))


def _compare(site: Site, offer: Offer, bundle: Bundle) -> tuple[Evidence, float | None]:
    incumbent = versions.serving(site, bundle.facts.name)
    try:
        load(site, bundle.digest)
    except BundleRefused:
        return _evidence(offer, incumbent, GateVerdict.REFUSE, (GateReason.SELF_TEST_FAILED,)), None
    if incumbent is None and versions.panel(site):
        # a new name would be a way around the comparison: a person decides who sits on the panel
        return _evidence(offer, None, GateVerdict.SHADOW, (GateReason.OTHER_MODEL,)), None
    if incumbent is not None and bundle.facts.segmentation is not None:
        return _evidence(offer, incumbent, GateVerdict.SHADOW, (GateReason.NOT_COMPARED,)), None
    if incumbent is None:
        reasons = (GateReason.NO_INCUMBENT, GateReason.ACCEPTANCE_PASSED)
        return _evidence(offer, None, GateVerdict.ADOPT, reasons), None
    served = versions.held(site, incumbent.digest)
    if served is None:
        raise NotFound("the served version is not here")
    cases = ReusableCases.of(site)
    if not cases.fold("train"):
        return _evidence(offer, incumbent, GateVerdict.SHADOW, (GateReason.NO_TRAINING_CASES,)), None
    old, new = _answers(site, served, cases), _answers(site, bundle, cases)
    gate = site.config.gate
    result = adoption(
        [
            GateCase(case.patient_key, bool(truth), bool(before), bool(after))
            for case, truth, before, after in zip(
                old["gate"].cases, old["gate"].positive, old["gate"].calls, new["gate"].calls, strict=True
            )
        ],
        # a retrained version's change plan, its base's, may ask for more than this hospital does
        Margins(min(gate.margin, bundle.facts.changes.margin), gate.alpha, gate.min_positives, gate.min_negatives),
    )
    right_before = old["test"].calls == old["test"].positive
    right_after = new["test"].calls == new["test"].positive
    evidence = Evidence(
        retraining=offer.retraining,
        digest=offer.digest,
        served=incumbent.digest,
        verdict=result.verdict.value,
        reasons=tuple(reason.value for reason in result.reasons),
        mended=int((right_after & ~right_before).sum()),
        new_errors=int((right_before & ~right_after).sum()),
        served_gate=_measure(old["gate"]),
        served_test=_measure(old["test"]),
        candidate_gate=_measure(new["gate"]),
        candidate_test=_measure(new["test"]),
    )
    return evidence, new["gate"].threshold


def _still(site: Site, evidence: Evidence) -> bool:
    """Whether what serves now is what the evidence compared with, or the judged version itself."""
    judged = versions.find(site, evidence.digest)
    serving = versions.serving(site, judged.name) if judged else None
    return (serving.digest if serving else None) in (evidence.served, evidence.digest)


def _answers(site: Site, bundle: Bundle, cases: ReusableCases) -> dict[str, _Answers]:
    """Score gate and test cases, at the threshold that the declared rule sets on the training patients."""
    engine = Engine(bundle, site.threads, site.engines / bundle.digest)

    def score(fold: Sequence[Case]) -> Floats:
        return engine.scores(tensors(site, bundle, fold)).astype(np.float64)

    training = cases.fold("train")
    positive = labels(training)
    vendor = bundle.facts.threshold
    usable = bool(positive.any() and not positive.all())
    threshold = balanced(score(training), positive) if usable else vendor
    return {
        fold: _Answers(chosen, labels(chosen), score(chosen), threshold, vendor)
        for fold, chosen in (("gate", cases.fold("gate")), ("test", cases.fold("test")))
        if chosen
    }


def _measure(answers: _Answers) -> Measure:
    positive = answers.positive
    local, vendor = answers.calls, answers.scores >= answers.vendor_threshold
    curve = auc(answers.scores, positive)
    there = bool(positive.any() and not positive.all())
    return Measure(
        n=len(positive),
        n_positive=int(positive.sum()),
        threshold=answers.threshold,
        tp=int((local & positive).sum()),
        fp=int((local & ~positive).sum()),
        tn=int((~local & ~positive).sum()),
        fn=int((~local & positive).sum()),
        vendor_tp=int((vendor & positive).sum()),
        vendor_fp=int((vendor & ~positive).sum()),
        vendor_tn=int((~vendor & ~positive).sum()),
        vendor_fn=int((~vendor & positive).sum()),
        auc=curve.value if there else None,
        auc_low=curve.low if there else None,
        auc_high=curve.high if there else None,
    )


def _evidence(
    offer: Offer,
    incumbent: versions.HeldVersion | None,
    verdict: GateVerdict,
    reasons: tuple[GateReason, ...],
) -> Evidence:
    return Evidence(
        retraining=offer.retraining,
        digest=offer.digest,
        served=incumbent.digest if incumbent else None,
        verdict=verdict.value,
        reasons=tuple(reason.value for reason in reasons),
    )
