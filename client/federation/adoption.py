"""The adoption gate: this hospital's own cases decide whether a version may serve here.

What is judged, adopted or refused is what would read here: the offered version in the form that has this hospital's own
layers (`client.federation.personal`) where the hospital trained some, else the version as it is. The coordinator calls
both by the version's digest, and is told the form's.

Gate and test cases are those of patients drawn by a keyed hash before anyone read them, as many of either answer of the
AI (`client.vigilance.sample`). A candidate has one look, or several that share one error rate; once it is decided on,
the hospital gives the same answer whoever asks again. What is adopted may have to read beside the served version first
(`client.vigilance.probation`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self, cast

import numpy as np

from client.federation.cases import ReusableCases, labels, tensors
from client.federation.leakage import look as look_for_leakage
from client.federation.personal import form_of
from client.inference.engine import Engine
from client.inference.panel import load
from client.store import versions
from client.store.ledger import Fact
from client.store.site import Site
from client.vigilance.register import Case
from client.vigilance.sample import drawn, patients
from models.bundle import Bundle, from_archive
from models.cohort import differences
from models.errors import BundleRefused, NotFound
from models.exchange import Decision, Evidence, Measure, Offer, Release, Subgroups
from models.fairness import changes
from models.gate import Case as GateCase
from models.gate import GateReason, GateVerdict, Look, Margins, adoption
from models.signing import load_trust
from models.stats.calibration import brier, brier_change
from models.stats.intervals import Bools, Floats, auc
from models.stats.threshold import balanced

_SHADOW_PERIOD: Final = GateReason.SHADOW_PERIOD.value


@dataclass(frozen=True, slots=True)
class _Question:
    """Which version is asked about, by which retraining, and in which form of this hospital's own it is judged."""

    retraining: str
    digest: str
    personal: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What the gate found: the evidence, the candidate's threshold here, and what the look, if any, rested on."""

    evidence: Evidence
    threshold: float | None = None
    look: dict[str, Fact] | None = None


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
    if (form := form_of(site, bundle)) is not None:
        bundle, known = form, versions.receive(site, form)
    if known.decision is not None:
        told = evidence_held(site, bundle.digest).model_copy(update={"retraining": offer.retraining})
        # in shadow nothing was decided yet; against another incumbent it is another question
        if told.verdict != "shadow" and _still(site, told):
            return told
    return _judge(site, _Question(offer.retraining, offer.digest, form.digest if form else None), bundle)


def look_again(site: Site) -> dict[str, Evidence]:
    """Judge the released versions that are in shadow once more, and adopt what is shown to be good by now.

    Returns:
        By digest, of those that were judged.

    Raises:
        BundleRefused: what lies on disk is no longer what was signed.
    """
    found: dict[str, Evidence] = {}
    for known in versions.listed(site):
        if known.state != "shadow" or known.decision is None or versions.barred(site, known.digest):
            continue
        told = evidence_held(site, known.digest)
        bundle = versions.held(site, known.digest)
        if told.verdict != "shadow" or bundle is None:
            continue
        found[known.digest] = _judge(site, _Question(told.retraining, told.digest, told.personal), bundle)
        # it was released, or it would not be in shadow
        settle(site, Release(retraining=told.retraining, digest=told.digest, released=True))
    return found


def _judge(site: Site, question: _Question, bundle: Bundle) -> Evidence:
    found = _compare(site, question, bundle)
    versions.note_decision(
        site, bundle.digest, found.evidence.model_dump(mode="json"), found.threshold, look=found.look
    )
    return found.evidence


def settle(site: Site, release: Release) -> Decision:
    """Adopt, refuse or keep in shadow, by the release and by what the gate here said.

    Raises:
        NotFound: the version was never offered here.
    """
    known = versions.form_of(site, release.digest) or versions.find(site, release.digest)
    if known is None or known.decision is None:
        raise NotFound("the version was never offered here")
    evidence = evidence_held(site, known.digest)
    if not release.released:
        for digest in {release.digest, known.digest}:
            versions.put(site, digest, "refused", "not-released")
        return Decision(
            retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("not-released",)
        )
    # recalled, rolled back or taken off here by a person: nobody outside brings it back
    if known.state in ("withdrawn", "retired"):
        return Decision(
            retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("site-policy",)
        )
    match evidence.verdict:
        case "adopt" if not _still(site, evidence):
            versions.put(site, known.digest, "refused", "incumbent-changed")
            return Decision(
                retraining=release.retraining, digest=release.digest, outcome="refused", reasons=("incumbent-changed",)
            )
        case "adopt" if known.state != "adopted" and site.config.gate.shadow_cases and evidence.served:
            versions.put(site, known.digest, "shadow", _SHADOW_PERIOD)
            return Decision(
                retraining=release.retraining, digest=release.digest, outcome="shadow", reasons=(_SHADOW_PERIOD,)
            )
        case "adopt":
            versions.adopt(site, known.digest)
            outcome = "adopted"
        case "shadow":
            versions.put(site, known.digest, "shadow", ",".join(evidence.reasons))
            outcome = "shadow"
        case "refuse":
            versions.put(site, known.digest, "refused", ",".join(evidence.reasons))
            outcome = "refused"
    return Decision(retraining=release.retraining, digest=release.digest, outcome=outcome, reasons=evidence.reasons)


def evidence_held(site: Site, digest: str) -> Evidence:
    """What the gate said of a version, with all counts: for this hospital's own people.

    Args:
        digest: of what was judged, or of the version whose own form here was.

    Raises:
        NotFound: the version was never judged here.
    """
    known = versions.form_of(site, digest) or versions.find(site, digest)
    if known is None or known.decision is None:
        raise NotFound("the version was never judged here")
    return Evidence.model_validate_json(json.dumps(known.decision))


def _compare(site: Site, question: _Question, bundle: Bundle) -> _Found:
    incumbent = versions.serving(site, bundle.facts.name)

    def told(verdict: GateVerdict, *reasons: GateReason) -> _Found:
        return _Found(_evidence(question, incumbent, verdict, reasons))

    try:
        load(site, bundle.digest)
    except BundleRefused:
        return told(GateVerdict.REFUSE, GateReason.SELF_TEST_FAILED)
    if incumbent is None and versions.panel(site):
        # a new name would be a way around the comparison: a person decides who sits on the panel
        return told(GateVerdict.SHADOW, GateReason.OTHER_MODEL)
    if incumbent is not None and bundle.facts.segmentation is not None:
        return told(GateVerdict.SHADOW, GateReason.NOT_COMPARED)
    unlike = _population(site, bundle)
    if unlike and site.config.gate.population == "require":
        return told(GateVerdict.SHADOW, *unlike)
    if incumbent is None:
        return told(GateVerdict.ADOPT, GateReason.NO_INCUMBENT, GateReason.ACCEPTANCE_PASSED, *unlike)
    served = versions.held(site, incumbent.digest)
    if served is None:
        raise NotFound("the served version is not here")
    cases = ReusableCases.of(site, served.facts)
    if not cases.fold("train"):
        return told(GateVerdict.SHADOW, GateReason.NO_TRAINING_CASES)
    found = _looked(site, question, _Compared.of(site, served, bundle), cases)
    warned = tuple(reason.value for reason in unlike if site.config.gate.population == "warn")
    return replace(found, evidence=found.evidence.model_copy(update={"reasons": found.evidence.reasons + warned}))


@dataclass(frozen=True, slots=True)
class _Compared:
    """The versions of one comparison; `first`: the first certified one, where it is neither of the two."""

    served: Bundle
    candidate: Bundle
    first: Bundle | None

    @classmethod
    def of(cls, site: Site, served: Bundle, candidate: Bundle) -> Self:
        certified = versions.first_certified(site, served.facts.name)
        if certified is None or certified.digest in (served.digest, candidate.digest):
            return cls(served, candidate, None)
        return cls(served, candidate, versions.held(site, certified.digest))

    @property
    def against(self) -> list[str]:
        return [one.digest for one in (self.served, self.first) if one is not None]


def _looked(site: Site, question: _Question, compared: _Compared, cases: ReusableCases) -> _Found:
    gate = site.config.gate
    sample = drawn(site, compared.served.facts.name, cases.fold("gate"))
    folds = {"gate": sample.cases, "test": cases.fold("test")}
    old, new = (_answers(site, one, cases.fold("train"), folds) for one in (compared.served, compared.candidate))
    first = _answers(site, compared.first, cases.fold("train"), folds)["gate"].calls if compared.first else None
    leak = look_for_leakage(site, compared.served, cases)
    judged = [
        GateCase(
            case.patient_key,
            bool(old["gate"].positive[place]),
            bool(old["gate"].calls[place]),
            bool(new["gate"].calls[place]),
            None if first is None else bool(first[place]),
        )
        for place, case in enumerate(sample.cases)
    ]
    margins = Margins(
        # a retrained version's change plan, its base's, may ask for more than this hospital does
        min(gate.margin, compared.candidate.facts.changes.margin),
        gate.alpha,
        gate.min_positives,
        gate.min_negatives,
        cast(Literal["fixed", "obrien-fleming", "pocock"], gate.looks),
        gate.planned_positives,
        gate.planned_negatives,
    )
    earlier = versions.looks(site, compared.candidate.digest, compared.against)
    verdict, reasons, look = GateVerdict.SHADOW, (GateReason.LEAKAGE,), None
    if leak == "none" and sample.cases and sample.least < gate.min_validated:
        reasons = (GateReason.TOO_FEW_VALIDATED,)
    elif leak == "none":
        result = adoption(judged, margins, [Look(one["positives"], one["negatives"]) for one in earlier])
        verdict, reasons, look = result.verdict, result.reasons, result.look
    right_before = old["test"].calls == old["test"].positive
    right_after = new["test"].calls == new["test"].positive
    change, error = brier_change(
        old["gate"].scores,
        new["gate"].scores,
        old["gate"].positive,
        np.array([case.patient_key for case in sample.cases], dtype=str),
    )
    evidence = Evidence(
        retraining=question.retraining,
        digest=question.digest,
        personal=question.personal,
        served=compared.served.digest,
        verdict=verdict.value,
        reasons=tuple(reason.value for reason in reasons),
        mended=int((right_after & ~right_before).sum()),
        new_errors=int((right_before & ~right_after).sum()),
        served_gate=_measure(old["gate"]),
        served_test=_measure(old["test"]),
        candidate_gate=_measure(new["gate"]),
        candidate_test=_measure(new["test"]),
        validated=round(sample.share, 3),
        leakage=leak,
        brier_change=None if math.isnan(error) else change,
        brier_error=None if math.isnan(error) else error,
        subgroups=Subgroups.of(
            changes(
                [(one, sample.strata[case.study_uid]) for one, case in zip(judged, sample.cases, strict=True)],
                gate.margin,
            )
        ),
    )
    rested: dict[str, Fact] | None = look and {
        "against": ",".join(compared.against),
        "looks": gate.looks,
        "positives": look.positives,
        "negatives": look.negatives,
        "changed": sum(one.old_positive != one.new_positive for one in judged),
        "cases": len(judged),
    }
    return _Found(evidence, new["gate"].threshold, rested)


def _population(site: Site, bundle: Bundle) -> tuple[GateReason, ...]:
    """What is to be said of whom the version was trained on, against who is read here."""
    if site.config.gate.population == "ignore":
        return ()
    if bundle.facts.cohort is None:
        return (GateReason.POPULATION_UNKNOWN,) if site.config.gate.population == "require" else ()
    return (
        (GateReason.POPULATION_MISMATCH,) if differences(bundle.facts.cohort, patients(site, bundle.facts.name)) else ()
    )


def _still(site: Site, evidence: Evidence) -> bool:
    """Whether what serves now is what the evidence compared with, or the judged version itself."""
    judged = versions.find(site, evidence.digest)
    serving = versions.serving(site, judged.name) if judged else None
    return (serving.digest if serving else None) in (evidence.served, evidence.personal or evidence.digest)


def _answers(
    site: Site, bundle: Bundle, training: Sequence[Case], folds: Mapping[str, Sequence[Case]]
) -> dict[str, _Answers]:
    """Score the cases of each fold, at the threshold that the declared rule sets on the training patients."""
    engine = Engine(bundle, site.threads, site.engines / bundle.digest)

    def score(fold: Sequence[Case]) -> Floats:
        return engine.scores(tensors(site, bundle, fold)).astype(np.float64) if fold else np.zeros(0)

    positive = labels(training)
    vendor = bundle.facts.threshold
    usable = bool(positive.any() and not positive.all())
    threshold = balanced(score(training), positive) if usable else vendor
    return {fold: _Answers(chosen, labels(chosen), score(chosen), threshold, vendor) for fold, chosen in folds.items()}


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
        brier=brier(answers.scores, positive) if len(positive) else None,
    )


def _evidence(
    question: _Question,
    incumbent: versions.HeldVersion | None,
    verdict: GateVerdict,
    reasons: tuple[GateReason, ...],
) -> Evidence:
    return Evidence(
        retraining=question.retraining,
        digest=question.digest,
        personal=question.personal,
        served=incumbent.digest if incumbent else None,
        verdict=verdict.value,
        reasons=tuple(reason.value for reason in reasons),
    )
