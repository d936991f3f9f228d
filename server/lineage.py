"""Where a version comes from and what became of it: versions, what made one of another, and each hospital's word. Pure.

    brightness@1 ──spring: 8 rounds, 3 hospitals──► brightness@2 ──► …

Made of what the registry says; drawn by `server/drawing.py`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from models.errors import NotFound

if TYPE_CHECKING:
    from server.registry import Known

State = Literal["candidate", "released", "blocked", "withdrawn", "registered"]
ADOPTED_AT: Final = "adopted-at-"
PERSONAL: Final = "personal."  # and a hospital's name: the digest of its own form of the version
FOLD: Final = "test"


@dataclass(frozen=True, slots=True)
class Figure:
    """A quantity with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Hospital:
    """A hospital's part in a version, and its word on it.

    Attributes:
        cases: that it learned from in the last round; None: it took no part in the training.
        before: AUC on its test patients of what it served when the version was offered.
        after: of the version.
        decision: adopted, refused or shadow, as it told when it was asked; empty: not known.
        reasons: of the decision.
        personal: digest of its own form of the version, which the figures and the decision are then of; empty: they are
            of the version as it is.
        adopted: it serves there, as the hospital has told last: with its decision, or asked since (`errands.py`).
    """

    name: str
    cases: int | None
    before: Figure | None
    after: Figure | None
    decision: str
    reasons: str
    adopted: bool
    personal: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A version, and what made it.

    Attributes:
        parent: label of the version it was made from; its digest where that is not registered under this name; empty:
            none.
        made_by: the retraining; empty: it came from a vendor.
        reasons: of the release gate, or of the withdrawal.
        hospitals: in the order of their names.
    """

    label: str
    digest: str
    created_at: float
    signer: str
    parent: str
    made_by: str
    rounds: int
    strategy: str
    state: State
    reasons: str
    hospitals: tuple[Hospital, ...]

    @property
    def day(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self.created_at))

    @property
    def origin(self) -> str:
        """What made it, in words."""
        of = f"from {self.parent}" if "@" in self.parent else f"from {self.parent[:12]}…" if self.parent else ""
        if not self.made_by:
            return f"{of}, signed by {self.signer}" if of else f"first version, signed by {self.signer}"
        learned = [one for one in self.hospitals if one.cases is not None]
        cases = sum(one.cases or 0 for one in learned)
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        return f"{of} by {self.made_by}: {rounds}, {self.strategy}, {cases} cases at {len(learned)} hospitals"

    @property
    def adopted_at(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.hospitals if one.adopted)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Versions of a model, oldest first, so that each stands after its parent.

    Attributes:
        title: what it is the lineage of.
    """

    title: str
    versions: tuple[Version, ...]

    def of(self, label: str) -> "Lineage":
        """What a version comes from, and what was made of it.

        Raises:
            NotFound: it is not among these.
        """
        by_label = {one.label: one for one in self.versions}
        if label not in by_label:
            raise NotFound(f"the registry has no version {label!r}; it has {', '.join(by_label)}")
        kept = {one.label for one in self.ancestors(label)}
        made = {label}
        for one in self.versions:
            if one.parent in made:
                made.add(one.label)
        return Lineage(label, tuple(one for one in self.versions if one.label in kept | made))

    def ancestors(self, label: str) -> tuple[Version, ...]:
        """A version, its parent, and so on back to the first."""
        by_label = {one.label: one for one in self.versions}
        found: list[Version] = []
        while (one := by_label.pop(label, None)) is not None:  # popped: no forged tag can make it run in a circle
            found.append(one)
            label = one.parent
        return tuple(found)

    def lanes(self) -> tuple[int, ...]:
        """Of each version, the lane that it is drawn in, from 0.

        A branch goes on in its lane with the newest child that was released, else the newest; every other child begins
        one. A branch has its lane to itself from the row of its parent on, so that no line passes through a version.
        """
        row = {one.label: index for index, one in enumerate(self.versions)}
        next_of: dict[str, str] = {}
        for one in sorted(self.versions, key=lambda one: (one.state == "released", row[one.label])):
            next_of[one.parent] = one.label
        branch: dict[str, int] = {}
        spans: list[tuple[int, int]] = []
        for index, one in enumerate(self.versions):
            if one.parent in branch and next_of[one.parent] == one.label:
                branch[one.label] = number = branch[one.parent]
                spans[number] = (spans[number][0], index)
            else:
                branch[one.label] = len(spans)
                spans.append((row.get(one.parent, index), index))
        free_from: list[int] = []
        lane_of: dict[int, int] = {}
        for number in sorted(range(len(spans)), key=lambda number: (spans[number][0], -spans[number][1])):
            begin, end = spans[number]
            lane = next((lane for lane, free in enumerate(free_from) if free <= begin), len(free_from))
            free_from[lane:] = [end + 1, *free_from[lane + 1 :]]
            lane_of[number] = lane
        return tuple(lane_of[branch[one.label]] for one in self.versions)


def lineage(name: str, known: Sequence["Known"]) -> Lineage:
    """The lineage of all versions of a model."""
    labels = {one.version.digest: one.version.label for one in known}
    return Lineage(name, tuple(_version(one, labels) for one in known))


def lines(found: Lineage) -> Iterator[str]:
    """The lineage for a terminal, oldest first."""
    for one in found.versions:
        yield f"{one.label}  {one.digest[:12]}…  {one.day}  {one.state}"
        yield f"    {one.origin}"
        if one.reasons:
            yield f"    {one.reasons}"
        width = max((len(hospital.name) for hospital in one.hospitals), default=0)
        if one.hospitals:
            yield f"    {'':{width}}  {'cases':>6}  {'AUC before':<22}  {'AUC after':<22}"
        for hospital in one.hospitals:
            yield f"    {_row(hospital, width)}".rstrip()


def _row(one: Hospital, width: int) -> str:
    cases = "-" if one.cases is None else str(one.cases)
    word = one.decision + (f" ({one.reasons})" if one.reasons else "")
    here = "" if not one.adopted or one.decision == "adopted" else "  adopted before"
    own = f"  in its own form {one.personal[:12]}…" if one.personal else ""
    return f"{one.name:<{width}}  {cases:>6}  {one.before or '-'!s:<22}  {one.after or '-'!s:<22}  {word}{here}{own}"


def _version(known: "Known", labels: Mapping[str, str]) -> Version:
    version, tags = known.version, known.version.tags
    parent = "" if tags.get("parent", "none") == "none" else tags["parent"]
    if version.withdrawn:
        state, reasons = "withdrawn", tags["withdrawn"]
    else:
        state, reasons = _state(tags, known.aliases), tags.get("release.reasons", "")
    return Version(
        label=version.label,
        digest=version.digest,
        created_at=version.created_at,
        signer=tags.get("signer", ""),
        parent=labels.get(parent, parent),
        made_by=tags.get("retraining", ""),
        rounds=int(tags.get("rounds", "0")),
        strategy=tags.get("strategy", ""),
        state=state,
        reasons=reasons,
        hospitals=_hospitals(known),
    )


def _state(tags: Mapping[str, str], aliases: Sequence[str]) -> State:
    match tags.get("release"):
        case "released":
            return "released"
        case "blocked":
            return "blocked"
        case _:
            return "candidate" if "candidate" in aliases else "registered"


def _hospitals(known: "Known") -> tuple[Hospital, ...]:
    tags = known.version.tags
    learned = {key.removeprefix("cases."): int(value) for key, value in tags.items() if key.startswith("cases.")}
    decided = {
        key.removeprefix("decision."): value
        for key, value in tags.items()
        if key.startswith("decision.") and not key.endswith(".reasons")
    }
    measured = {name.split("/")[0] for name in known.figures}
    adopted = {alias.removeprefix(ADOPTED_AT) for alias in known.aliases if alias.startswith(ADOPTED_AT)}
    return tuple(
        Hospital(
            name=site,
            cases=learned.get(site),
            before=_figure(known.figures.get(f"{site}/{FOLD}", {}), "before_auc"),
            after=_figure(known.figures.get(f"{site}/{FOLD}", {}), "auc"),
            decision=decided.get(site, ""),
            reasons=tags.get(f"decision.{site}.reasons", ""),
            adopted=site in adopted,
            personal=tags.get(PERSONAL + site, ""),
        )
        for site in sorted({*learned, *decided, *measured, *adopted})
    )


def _figure(figures: Mapping[str, float], name: str) -> Figure | None:
    try:
        return Figure(figures[name], figures[f"{name}_low"], figures[f"{name}_high"])
    except KeyError:
        return None
