"""Whom a version was trained on, and whether a hospital's patients are like them. Pure.

The words are those of a stratum: sex `F`, `M` or `O`; age `child`, `18-39`, `40-64` or `65+`; the scanner's maker by
the first word of its name. What is not known of a patient is left out of the shares.
"""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.stats.intervals import proportion

ENOUGH: Final = 20  # patients here, below which nothing is said
_RARE: Final = 0.01  # of the cohort: the version has hardly seen such patients
_STRANGE: Final = 0.1  # of the patients here who are so, at most
_APART: Final = 0.4  # total variation distance of two mixes, at most

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+-]{1,16}$")]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Cohort(BaseModel):
    """The training patients of a version, by their shares; empty where a mix is not known.

    Attributes:
        patients: how many.
        sexes, ages, makers: share of the patients of whom it is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patients: int = Field(ge=1)
    sexes: Mapping[Word, Part] = Field(default_factory=dict[str, float])
    ages: Mapping[Word, Part] = Field(default_factory=dict[str, float])
    makers: Mapping[Word, Part] = Field(default_factory=dict[str, float])


def differences(cohort: Cohort, strata: Mapping[str, int]) -> tuple[str, ...]:
    """In what the patients here differ from the cohort: `sex`, `age`, `maker`.

    They differ where more than a tenth of those here (the lower bound of their share) are of a kind that the version
    hardly saw; sex and age also where the mixes lie far apart. A maker that is common there and absent here is no
    harm.

    Args:
        strata: patients here by stratum, `F|40-64|siemens`.
    """
    found: list[str] = []
    for place, (name, shares) in enumerate((("sex", cohort.sexes), ("age", cohort.ages), ("maker", cohort.makers))):
        here: dict[str, int] = {}
        for stratum, count in strata.items():
            words = stratum.split("|")
            if len(words) == 3 and words[place] != "?":
                here[words[place]] = here.get(words[place], 0) + count
        total = sum(here.values())
        if not shares or total < ENOUGH:
            continue
        strange = sum(count for word, count in here.items() if shares.get(word, 0.0) < _RARE)
        apart = sum(abs(here.get(word, 0) / total - shares.get(word, 0.0)) for word in {*here, *shares}) / 2
        if proportion(strange, total).low > _STRANGE or (name != "maker" and apart > _APART):
            found.append(name)
    return tuple(found)
