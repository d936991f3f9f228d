"""The error tree: one root, stable codes, one line that says what to do.

VigieError
├── InvalidStudy           what was received cannot be read as an image
├── BundleRefused          a model version is altered, unsigned, or not what it says
├── BorderRefused          a message that may not cross a hospital's border
├── NotAllowed             the caller may not do this
├── ConsentMissing         this hospital has not agreed to this retraining
├── NotFound               the thing named does not exist
├── Conflict               the thing named is not in a state that allows this
├── NoRoom                 there is no room on the disk
├── ConfigurationError     settings that cannot work, found before anything starts
├── UnknownNetwork         a version names an architecture that is not known, or facts it does not have
├── InvalidPreprocessing   a version names a step outside the allow-list, or steps that make no image
├── InvalidTraining        images, labels, weights or tensors that do not fit each other
├── TrainingDiverged       a loss or weight is no longer finite; nothing of it may be used
├── ExportMismatch         the exported network does not give the trained one's scores
├── BudgetExhausted        a training would cost more of the patients' privacy than the hospital allows
├── NotSignedIn            no token, or one that nobody here has
└── InvalidVerdict         a verdict that contradicts itself, or a departure without a reason

Each edge keeps one table from `code` to its own status (DICOM, HTTP, exit code); nothing else maps errors.
"""

from typing import ClassVar


class VigieError(Exception):
    """A broken promise that an operator can act upon."""

    code: ClassVar[str] = "vigie"


class InvalidStudy(VigieError):
    """The instance or study cannot be read as an image.

    `reason` is a stable machine-readable word, e.g. `no-pixels`, `truncated`, `not-dicom`.
    """

    code = "invalid-study"

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class BundleRefused(VigieError):
    """A model version is altered, unsigned, incomplete, or not what it says it is."""

    code = "bundle-refused"


class BorderRefused(VigieError):
    """A message that may not cross a hospital's border."""

    code = "border-refused"


class NotAllowed(VigieError):
    """The caller is unknown or may not do this."""

    code = "not-allowed"


class ConsentMissing(VigieError):
    """This hospital has not agreed to this retraining, or no longer does."""

    code = "consent-missing"


class NotFound(VigieError):
    """The thing named does not exist here."""

    code = "not-found"


class Conflict(VigieError):
    """The thing named is not in a state that allows this."""

    code = "conflict"


class NoRoom(VigieError):
    """There is no room on the disk; nothing was kept."""

    code = "no-room"


class ConfigurationError(VigieError):
    """Settings that cannot work, found before anything starts."""

    code = "configuration"


class UnknownNetwork(VigieError):
    """A version names an architecture that is not in the registry, or facts it does not have."""

    code = "unknown-network"


class InvalidPreprocessing(VigieError):
    """A preprocessing declaration names something outside the allow-list or makes no image."""

    code = "invalid-preprocessing"


class InvalidTraining(VigieError):
    """Images, labels, weights or weight tensors do not fit each other."""

    code = "invalid-training"


class TrainingDiverged(VigieError):
    """The loss or a weight is no longer finite; nothing of this training may be used."""

    code = "training-diverged"


class ExportMismatch(VigieError):
    """The exported network does not give the scores of the trained one."""

    code = "export-mismatch"


class NotSignedIn(VigieError):
    """No token, or one that nobody here has."""

    code = "not-signed-in"


class InvalidVerdict(VigieError):
    """A verdict that contradicts itself or the result it is about, or a departure without its coded reason."""

    code = "invalid-verdict"


class TooFewCases(VigieError):
    """There is nothing, or too little, to learn or to judge from."""

    code = "too-few-cases"


class BudgetExhausted(VigieError):
    """A training would cost more of the patients' privacy than this hospital allows in all."""

    code = "budget-exhausted"
