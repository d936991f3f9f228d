"""The only messages that may cross a hospital's border.

Into a hospital come the signed terms of a retraining, an order to train, the offer of a version, and the word whether
it was released; the signed word that a version is withdrawn, and the questions what became of the versions that were
offered, and how one does. Out of it go, in that order, its consent, an update of the weights (or, where updates are
only summed, a key, a masked update and parts of what takes masks off a sum), the evidence of how a version did on local
cases, and the hospital's decision; what it did with the withdrawal, the states of its versions, and counts of right and
wrong answers; or, instead of any of them, a refusal that carries one code. What leaves is numbers, words from the
closed lists below, digests, and the name of the retraining. There is no field that could hold a
patient, a study, an image or free text; an update is bounded (models/bounds.py), and no count is small enough to show a
patient (models/stats/disclosure.py).

`orders` come in and `answers` go out; `words` are the closed lists, `message` and `weights` how they are carried,
`checks` what is looked at before anything leaves, `crossing` what the ledger keeps.
"""

from models.exchange.answers import (
    Consent,
    Decision,
    Evidence,
    Holdings,
    Measure,
    Refusal,
    Subgroups,
    Tally,
    Update,
    Withdrawn,
    asked,
    measures,
)
from models.exchange.checks import (
    ANSWERS,
    CONTROL,
    Answer,
    Message,
    Order,
    Reply,
    belongs,
    channel_of,
    check_answer,
    disclosed,
    parse,
    withheld,
)
from models.exchange.crossing import Crossing, fingerprint
from models.exchange.figures import Audit, Figures, Lines
from models.exchange.grouped import GroupOrder, Masked, MaskOrder, Sealed, Unmasked, UnmaskOrder
from models.exchange.orders import Inquiry, Offer, Proposal, Release, Survey, TrainOrder, Withdrawal
from models.exchange.weights import Layout, Packer, Weights, check_weights, digest, is_in, layout_of
from models.exchange.words import (
    CODES,
    KINDS,
    MAX_ASKED,
    WIRE,
    Changed,
    Channel,
    ConsentReason,
    Holding,
    LayerName,
    Leakage,
    Name,
    Reason,
    RefusalCode,
    Taken,
)

__all__ = [
    "ANSWERS",
    "CODES",
    "CONTROL",
    "KINDS",
    "MAX_ASKED",
    "WIRE",
    "Answer",
    "Audit",
    "Changed",
    "Channel",
    "Consent",
    "ConsentReason",
    "Crossing",
    "Decision",
    "Evidence",
    "Figures",
    "GroupOrder",
    "Holding",
    "Holdings",
    "Inquiry",
    "LayerName",
    "Layout",
    "Leakage",
    "Lines",
    "MaskOrder",
    "Masked",
    "Measure",
    "Message",
    "Name",
    "Offer",
    "Order",
    "Packer",
    "Proposal",
    "Reason",
    "Refusal",
    "RefusalCode",
    "Release",
    "Reply",
    "Sealed",
    "Subgroups",
    "Survey",
    "Taken",
    "Tally",
    "TrainOrder",
    "UnmaskOrder",
    "Unmasked",
    "Update",
    "Weights",
    "Withdrawal",
    "Withdrawn",
    "asked",
    "belongs",
    "channel_of",
    "check_answer",
    "check_weights",
    "digest",
    "disclosed",
    "fingerprint",
    "is_in",
    "layout_of",
    "measures",
    "parse",
    "withheld",
]
