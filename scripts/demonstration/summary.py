"""What a demonstration leaves: `summary.json`. These classes are its schema (`vigie demo --schema` prints it)."""

from pydantic import BaseModel, Field


class Figure(BaseModel):
    """A proportion or area with its 95 % interval; null where a class is missing."""

    value: float | None
    low: float | None
    high: float | None


class Performance(BaseModel):
    """A version on one fold of a hospital's patients, at the hospital's own threshold and at the vendor's."""

    n: int
    n_positive: int
    threshold: float
    sensitivity: Figure
    specificity: Figure
    vendor_sensitivity: Figure
    vendor_specificity: Figure
    auc: Figure


class HospitalSummary(BaseModel):
    """One hospital."""

    patients: dict[str, int] = Field(description="per fold")
    studies: dict[str, int] = Field(description="studies sent, and how many ended in which state")
    refusals: dict[str, int] = Field(description="coded reasons of refused studies")
    pacs: str = Field(description="which stand-in received the results")
    delivered: int = Field(description="result objects the node has sent")
    in_pacs: int = Field(description="objects the PACS has")
    verdicts: dict[str, int]
    errors_of_version_1: int
    left_out_objecting: int = Field(description="validated training cases of patients who object to reuse")
    before: dict[str, Performance] = Field(description="version 1 per fold (gate, test)")
    after: dict[str, Performance] = Field(description="version 2 per fold (gate, test)")
    decision: str
    decision_reasons: list[str]
    served: str = Field(description="version that served the second sending")
    mended: int = Field(description="test studies that were wrong in the first sending and right in the second")
    new_errors: int = Field(description="right in the first, wrong in the second")
    refused_test_studies: int = Field(description="test studies that a version refused in one sending or in both")
    crossed: dict[str, dict[str, int]] = Field(description="border crossings by direction and kind")
    ledger_holds: bool


class Summary(BaseModel):
    """The whole demonstration."""

    vigie: str
    data: str = Field(description="real radiographs, or phantoms")
    seed: int
    rounds: int
    finished: bool = True
    version_1: str
    version_2: str
    released: bool
    release_reasons: list[str]
    hospitals: dict[str, HospitalSummary]
    evaluate_agrees_to: float = Field(description="largest difference of `vigie evaluate` from the nodes' scores")
    seconds: dict[str, float] = Field(description="per phase, and total")
    round_seconds: list[float]
    peak_memory_mib: float = Field(
        description="largest resident memory of all processes together, every two seconds; a shared page counts once"
    )
    peak_rss_sum_mib: float = Field(description="the same with shared pages counted in every process that has them")
    machine: dict[str, str | int | float]
    addresses: dict[str, str]
