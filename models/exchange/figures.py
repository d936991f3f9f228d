"""How a version does at a hospital: the question, and the counts that may leave in answer to it."""

from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from models import audit
from models.exchange.message import Declared, Message, require
from models.exchange.words import Count, Digest, Name
from models.stats import release
from models.stats.release import Column, Few, Group, Line, Stream, Tier, Truth

MAX_LINES: Final = 4096
_HIDDEN: Final = -1  # Flower's lists have no place for what is not there


class Audit(Message):
    """Coordinator to site: how does this version do? Answered where the site's settings let it.

    See `consent.statistics` of the settings.
    """

    kind = "audit"

    request: Annotated[bytes, Field(min_length=1, max_length=audit.MAX_BYTES)]
    signer: Name
    signature: Annotated[bytes, Field(min_length=64, max_length=64)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        audit.read(self.request)
        return self

    @property
    def asked(self) -> audit.Request:
        """What is asked."""
        return audit.read(self.request)


class Lines(Declared):
    """Counts by column and group, one line a place.

    Flower carries no list of records: hence lists of the same length. All words are of closed lists
    (`models.stats.release`).
    """

    stream: Annotated[tuple[Stream, ...], Field(min_length=1, max_length=MAX_LINES)]
    tier: Annotated[tuple[Tier, ...], Field(min_length=1, max_length=MAX_LINES)]
    inclusion: Annotated[tuple[Annotated[int, Field(ge=0, le=100)], ...], Field(min_length=1, max_length=MAX_LINES)]
    truth: Annotated[tuple[Truth, ...], Field(min_length=1, max_length=MAX_LINES)]
    group: Annotated[tuple[Group, ...], Field(min_length=1, max_length=MAX_LINES)]
    n: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_LINES)]
    wrong: Annotated[tuple[Annotated[int, Field(ge=_HIDDEN, le=10**9)], ...], Field(min_length=1, max_length=MAX_LINES)]
    few: Annotated[tuple[Few, ...], Field(min_length=1, max_length=MAX_LINES)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        places = (self.stream, self.tier, self.inclusion, self.truth, self.group, self.n, self.wrong, self.few)
        require(len({len(one) for one in places}) == 1, "lists of different lengths")
        require(all(wrong <= n for wrong, n in zip(self.wrong, self.n, strict=True)), "cases do not add up")
        return self

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Self | None:
        """None where there are none: Flower drops empty lists' types."""
        if not lines:
            return None
        columns = [line.column for line in lines]
        return cls(
            stream=tuple(one.stream for one in columns),
            tier=tuple(one.tier for one in columns),
            inclusion=tuple(one.inclusion for one in columns),
            truth=tuple(one.truth for one in columns),
            group=tuple(line.group for line in lines),  # type: ignore[misc] - looked at by the model itself
            n=tuple(line.n for line in lines),
            wrong=tuple(_HIDDEN if line.wrong is None else line.wrong for line in lines),
            few=tuple(line.few for line in lines),
        )

    def lines(self) -> tuple[Line, ...]:
        """One by one."""
        columns = map(Column, self.stream, self.tier, self.inclusion, self.truth)
        rest = zip(columns, self.group, self.n, self.wrong, self.few, strict=True)
        return tuple(
            Line(column, group, n, None if wrong == _HIDDEN else wrong, few) for column, group, n, wrong, few in rest
        )


class Figures(Message):
    """Site to coordinator: one block of patients, each of whom is counted once and for good.

    Attributes:
        digest: of the version.
        number: of the release; 0: there is nothing new.
        epsilon: of the noise on the counts, for each patient of this version; absent: there is none.
        period: the month in whose beginning the block was closed, 202611; 0 with the number.
    """

    kind = "figures"

    digest: Digest
    number: Annotated[int, Field(ge=0, le=10**6)] = 0
    period: Annotated[int, Field(ge=0, le=999912)] = 0
    epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    told: Lines | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require((self.number == 0) == (self.told is None) == (self.period == 0), "a release without lines")
        return self

    def faults(self) -> list[str]:
        """Why it may not leave."""
        return release.faults(self.told.lines(), noised=self.epsilon is not None) if self.told else []
