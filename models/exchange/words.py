"""The words that may stand in a message, and its limits."""

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from models import terms

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Difference = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=-40.0, le=40.0, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
LayerName = terms.LayerName
LayerNames = Annotated[tuple[LayerName, ...], Field(max_length=4096)]

Kind = Literal[
    "proposal",
    "consent",
    "train",
    "update",
    "group-train",
    "sealed",
    "mask",
    "masked",
    "unmask",
    "unmasked",
    "offer",
    "evidence",
    "release",
    "decision",
    "survey",
    "tally",
    "withdrawal",
    "withdrawn",
    "inquiry",
    "holdings",
    "audit",
    "figures",
    "refusal",
]
Channel = Literal[
    "training",  # works for minutes or hours; takes every message
    "control",  # answers in seconds; takes only what needs no training
]
Agreement = Literal["granted", "waiting", "declined"]
ConsentReason = Literal[
    "person",  # who grants or declines it
    "policy",  # what grants it
    "withdrawn",
    "expired",
    "not-named",  # the terms do not name this hospital
    "base-unknown",  # the hospital does not hold the version to start from
    "change-plan",  # outside what the version's change plan allows
    "no-policy",  # this hospital has no standing policy for it: a person has to look
    "too-many-rounds",
    "too-many-retrainings",
    "other-strategy",
    "too-few-hospitals",
    "norm-too-large",
    "not-private",  # this hospital asks for updates that are differentially private
    "budget-exhausted",  # what is left of its privacy budget is less than the whole of it would cost
    "not-summed",  # this hospital asks for secure aggregation
    "hospital-unknown",  # secure aggregation with a hospital whose key is not trusted here: a person has to look
    "hospital-changed",  # secure aggregation with a hospital that has another key than the one trusted here
]
Half = Literal["tp", "fp", "tn", "fn", "vendor_tp", "vendor_fp", "vendor_tn", "vendor_fn"]
Verdict = Literal["adopt", "refuse", "shadow"]
Outcome = Literal["adopted", "refused", "shadow"]
Taken = Literal[
    "withdrawn",  # it reads no study here, and never will
    "waiting",  # for a person, by this hospital's policy
    "kept",  # a person has said that it stays
    "not-held",
]
Holding = Literal["offered", "shadow", "adopted", "refused", "withdrawn", "retired"]
Changed = Literal[
    "gate",  # by the hospital's gate, or by the coordinator's word
    "trial",  # the others: by a person, for this reason
    "quality",
    "safety",
    "mistake",
    "other",
]
Reason = Literal[
    "non-inferior",
    "sensitivity-not-shown",
    "specificity-not-shown",
    "sensitivity-inferior",
    "specificity-inferior",
    "certified-not-shown",  # as the four above, of the first certified version
    "certified-inferior",
    "too-few-positives",
    "too-few-negatives",
    "too-few-validated",  # of the random sample: what is left could be chosen by what the AI said
    "no-training-cases",
    "no-incumbent",
    "incumbent-changed",
    "acceptance-passed",
    "self-test-failed",
    "other-model",  # beside a model that serves, another one is put by a person
    "not-compared",  # the gate has no measure for this kind of version
    "population-unknown",  # the version does not say whom it was trained on
    "population-mismatch",  # the patients here are unlike those
    "leakage",  # a case of the random sample may have been trained on
    "shadow-period",  # it reads beside the served version first
    "shadow-disagrees",  # there, it answered otherwise more often than on the random sample
    "shadow-worse",  # there, it was worse beyond the margin
    "not-released",
    "site-policy",
]
Leakage = Literal[
    "none",
    "folds-altered",  # a patient is in another fold than the one that the hospital's key draws
    "same-image",  # a training image is in the random sample, too, under another patient
    "trained-on",  # an earlier retraining learned from it
]
RefusalCode = Literal[
    "border-refused",  # the message is not one of those below, or not well formed
    "reply-refused",  # the hospital's own reply would not have been one
    "bundle-refused",  # a version is altered, unsigned or unfit; or the Flower app is not the approved one
    "consent-missing",  # this hospital has not agreed to this retraining
    "base-unknown",  # the hospital does not hold the version to start from
    "too-few-cases",  # nothing, or too little, to learn from
    "training-diverged",
    "budget-exhausted",  # the privacy budget of this hospital is used up
    "not-allowed",
    "not-found",
    "conflict",
    "unavailable",  # the site could not open its own store
    "interrupted",  # the process that was answering was killed; the same order may be answered next time
    "failed",  # anything else; the hospital's log says what
]

WIRE = 5  # version of this file's messages; both sides must speak the same
MAX_WEIGHTS = 512 * 2**20  # bytes
MAX_BUNDLE = 128 * 2**20  # bytes
MAX_TENSORS = 4096
MAX_ASKED = 1024  # versions of one inquiry

KINDS: frozenset[str] = frozenset(get_args(Kind))
CODES: frozenset[str] = frozenset(get_args(RefusalCode))
