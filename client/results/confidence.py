"""How sure a result is: what its score meant among validated patients at the moment when the study was read.

Kept with the outcome, so that page, report and API say the same, and a later calibration does not rewrite what a reader
was shown.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.stats.calibration import FEWEST, Answer

Source = Literal["site", "vendor", "none"]


class Confidence(BaseModel):
    """What is known beyond score and threshold.

    Attributes:
        source: on whose patients it was fitted; `none`: on nobody's yet.
        probability: 0..1, that the finding is there, among patients like those; None where there is no calibration.
        answers: that cannot be ruled out at `level`: one, both, or none (unlike either kind); empty if unknown.
        level: of those with the finding at least this share has `positive` in the set, of the others `negative`.
        positives, negatives: validated patients that it was fitted on; of this hospital, too few, where the source is
            none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    probability: float | None = None
    answers: tuple[Answer, ...] = ()
    level: float | None = None
    positives: int
    negatives: int

    @property
    def uncertain(self) -> bool:
        """The score leaves the answer open."""
        return self.source != "none" and len(self.answers) != 1

    @property
    def prevalence(self) -> float:
        """Share of the patients who have the finding."""
        return self.positives / max(self.positives + self.negatives, 1)

    @property
    def verdict(self) -> str:
        """The set, as a person reads it."""
        if self.source == "none":
            return ""
        if len(self.answers) == 1:
            return self.answers[0]
        return "uncertain: positive or negative" if self.answers else "uncertain: unlike validated cases of either kind"

    @property
    def basis(self) -> str:
        """What it rests on, as a sentence."""
        if self.source == "none":
            return (
                f"No calibration yet: {self.positives} positive and {self.negatives} negative patients are validated "
                f"for this version, {FEWEST} of each are needed."
            )
        whose = "of this hospital" if self.source == "site" else "of the vendor, not of this hospital"
        return (
            f"Calibrated on {self.positives} positive and {self.negatives} negative validated patients {whose}. "
            f"{100 * self.prevalence:.0f} % of them have the finding: where it is rarer, it is less likely than said."
        )
