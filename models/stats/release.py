"""Counts of right and wrong answers that may leave a hospital for good, however often and with whatever else. Pure.

Patients are told of once for a version, in blocks that are closed for good: two releases have no patient in common, so
that no difference of them is one. In a block the patients of one column (how they came to be looked at, what their
truth rests on, whether they have the finding) are counted over all, and by sex, by age and by scanner. How many
patients a group has is always told where a table is, and is never under `FEWEST`: who belongs to a smaller group waits
for a later block, by group and truth alone and never by what the AI answered, so that rates stay what they are. Where
more than a tenth would have to wait, that table is left out instead.

Of a group's answers, right and wrong are both told or neither. They are where both are at least `LEAST`, and where in
each table those of the groups that keep theirs to themselves add up to nothing, or to at least `LEAST` of either kind:
a sum is known, and so is what is left of it. Then what can be worked out of one kept-back count is a range of at least
eleven (`tests/unit/test_release.py` works it out by linear programming over all tables together).

Source: Willenborg & de Waal, Elements of Statistical Disclosure Control, 2001, ch. 6; CMS cell size suppression policy
(eleven). Who reads nothing of a group does not learn whether it has nobody or a few.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from models.stats.disclosure import LEAST

Stream = Literal[
    "random",  # drawn by the hospital's key before anybody read anything
    "discordant",  # of the others, AI and first reader differed: all of them were read again
    "double-positive",  # both called it: drawn to be read again
    "double-negative",  # neither did: drawn to be read again
    "routine",  # as they came, judged by whoever read them
]
Tier = Literal["ai_visible", "report", "single_reader", "blind_consensus", "follow_up", "biopsy"]
Truth = Literal["with", "without"]
Few = Literal["", "right", "wrong"]
Scanner = Literal[
    "scanner-agfa", "scanner-canon", "scanner-carestream", "scanner-fujifilm", "scanner-ge", "scanner-hologic",
    "scanner-konica", "scanner-philips", "scanner-samsung", "scanner-shimadzu", "scanner-siemens",
    "scanner-united-imaging", "scanner-other",
]  # fmt: skip
"""Makers, and not models: a model's name is typed by whoever installs it, and a rare one names its hospital."""
Sex = Literal["sex-f", "sex-m", "sex-other"]
Age = Literal["age-child", "age-18-39", "age-40-64", "age-65+", "age-unknown"]
Group = Literal["all"] | Sex | Age | Scanner

TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "sex": get_args(Sex),
    "age": get_args(Age),
    "scanner": get_args(Scanner),
}
"""The groups of each table; a patient is in one group of each."""
FEWEST: Final = 50
"""Patients of a group who are told of, but of second reads, which are few by design: there `LEAST`."""
ENOUGH: Final = 4 * LEAST
"""Of right and of wrong answers: with fewer a block is closed only once its first patient has waited for `PATIENCE`, so
that it can be told by group, too."""
PATIENCE: Final = 182 * 86400.0  # seconds
LONGEST: Final = 365 * 86400.0  # until a column is told of which one half may not be
_MAY_WAIT: Final = 0.1  # of a column, for a table's sake
_MAKERS: Final[Mapping[str, Scanner]] = {
    "agfa": "scanner-agfa", "canon": "scanner-canon", "toshiba": "scanner-canon", "carestream": "scanner-carestream",
    "kodak": "scanner-carestream", "fuji": "scanner-fujifilm", "fujifilm": "scanner-fujifilm", "ge": "scanner-ge",
    "general": "scanner-ge", "hologic": "scanner-hologic", "konica": "scanner-konica", "philips": "scanner-philips",
    "samsung": "scanner-samsung", "shimadzu": "scanner-shimadzu", "siemens": "scanner-siemens",
    "uih": "scanner-united-imaging", "united": "scanner-united-imaging",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """Patients who may be counted together.

    Attributes:
        inclusion: per cent of such patients that were drawn to be looked at again; 100: all; 0: nobody drew.
    """

    stream: Stream
    tier: Tier
    inclusion: int
    truth: Truth

    @property
    def fewest(self) -> int:
        """Patients of a group below which nothing of it is told."""
        return FEWEST if self.stream in ("random", "routine") else LEAST

    @property
    def one_sided(self) -> bool:
        """Whether all answers are right, or all wrong: what AI and first reader said alike is in the stream's name."""
        return self.stream in ("double-positive", "double-negative")


@dataclass(frozen=True, slots=True)
class Patient:
    """One who has not been told of yet.

    Attributes:
        key: keyed hash; stays in the hospital.
        groups: one of each table.
        since: when the truth became known, seconds since the epoch.
    """

    key: str
    column: Column
    groups: tuple[str, ...]
    right: bool
    since: float


@dataclass(frozen=True, slots=True)
class Line:
    """What is told of one group of a column.

    Attributes:
        n: patients.
        wrong: answered wrongly; None: kept back.
        few: of all, where it is kept back: which half is under `LEAST`, where that does not tell the other.
        noise: how far right and wrong may be from the truth each, by the noise on them.
    """

    column: Column
    group: str
    n: int
    wrong: int | None = None
    few: Few = ""
    noise: int = 0

    @property
    def right(self) -> int | None:
        return None if self.wrong is None else self.n - self.wrong


@dataclass(frozen=True, slots=True)
class Block:
    """What is told, and of whom."""

    lines: tuple[Line, ...]
    patients: frozenset[str]


def scanner_of(word: str) -> Scanner:
    """The maker by the first word of its name in small letters, as strata have it; `scanner-other` where unknown."""
    return _MAKERS.get(word, "scanner-other")


def groups_of(stratum: str) -> tuple[str, str, str]:
    """`F|40-64|siemens` → the groups of the three tables."""
    sex, age, maker, *_ = (*stratum.split("|"), "", "", "")
    named = f"sex-{sex.lower()}", f"age-{age}"
    return (
        named[0] if named[0] in TABLES["sex"] else "sex-other",
        named[1] if named[1] in TABLES["age"] else "age-unknown",
        scanner_of(maker),
    )


def close(patients: Iterable[Patient], now: float) -> Block:
    """The block that may be told now; the others wait.

    Args:
        patients: each once.
        now: seconds since the epoch.
    """
    columns: dict[Column, list[Patient]] = defaultdict(list)
    for one in patients:
        columns[one.column].append(one)
    lines: list[Line] = []
    told: set[str] = set()
    for column in sorted(columns, key=_order):
        kept, tables = _gathered(columns[column])
        if found := _lines(column, kept, tables, now):
            lines += found
            told |= {one.key for one in kept}
    return Block(tuple(lines), frozenset(told))


def faults(lines: Sequence[Line], *, noised: bool = False) -> list[str]:
    """Why these lines may not leave; looked at from outside, by what they say alone.

    Args:
        noised: there is noise on each count, and sums prove nothing.
    """
    found: list[str] = []
    columns: dict[Column, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        if line.group in columns[line.column]:
            found.append("a group twice")
        columns[line.column][line.group] = line
    for column, by_group in columns.items():
        every = by_group.get("all")
        if every is None:
            found.append("groups without a whole")
            continue
        found += [why for line in by_group.values() for why in _faults(line, column)]
        if every.few and (every.wrong is not None or every.n < 2 * LEAST):
            found.append("a half that is said to be small shows the other")
        for groups in TABLES.values():
            table = [by_group[group] for group in groups if group in by_group]
            if table and not noised:
                found += _unsafe(every, table)
    return found


def _faults(line: Line, column: Column) -> list[str]:
    halves = [] if line.wrong is None else [line.wrong, line.n - line.wrong]
    small = line.n < column.fewest or min(halves, default=LEAST) < LEAST
    found = ["a count that could show a patient"] if small else []
    if line.few and line.group != "all":
        found.append("a small half of a group")
    if column.one_sided and (line.wrong is not None or line.few):
        found.append("two halves where there is one")
    return found


def _unsafe(every: Line, table: Sequence[Line]) -> list[str]:
    found: list[str] = []
    if sum(line.n for line in table) != every.n:
        found.append("groups that are not the whole")
    silent = [line for line in table if line.wrong is None]
    if every.wrong is None:
        return found if len(silent) == len(table) else [*found, "halves of groups without those of the whole"]
    wrong = every.wrong - sum(line.wrong or 0 for line in table)
    right = sum(line.n for line in silent) - wrong
    if silent and min(wrong, right) < LEAST:
        found.append("what is kept back can be worked out")
    if not silent and wrong:
        found.append("groups that are not the whole")
    return found


def _gathered(patients: Sequence[Patient]) -> tuple[list[Patient], list[int]]:
    """Those who can be told of, and by which tables."""
    kept, tables = list(patients), list(range(len(TABLES)))
    changed = True
    while changed:
        changed = False
        for table in list(tables):
            sizes = Counter(one.groups[table] for one in kept)
            small = {group for group, size in sizes.items() if size < patients[0].column.fewest}
            if not small:
                continue
            changed = True
            if sum(sizes[group] for group in small) <= _MAY_WAIT * len(patients):
                kept = [one for one in kept if one.groups[table] not in small]
            else:
                tables.remove(table)
    return kept, tables


def _lines(column: Column, kept: Sequence[Patient], tables: Sequence[int], now: float) -> list[Line]:
    """Of one column; nothing where it waits."""
    n, wrong = len(kept), sum(not one.right for one in kept)
    if n < column.fewest:
        return []
    waited = now - min(one.since for one in kept)
    halves = min(wrong, n - wrong)
    enough = n >= ENOUGH if column.one_sided else halves >= ENOUGH
    whole = Line(column, "all", n)
    if not column.one_sided:
        if not (enough or waited >= (PATIENCE if halves >= LEAST else LONGEST)):
            return []
        if halves >= LEAST:
            whole = replace(whole, wrong=wrong)
        elif n >= 2 * LEAST:
            whole = replace(whole, few="wrong" if wrong < LEAST else "right")
    elif not enough and waited < PATIENCE:
        return []
    lines = [whole]
    for table in tables:
        lines += _table(whole, table, kept)
    return lines


def _table(whole: Line, table: int, kept: Sequence[Patient]) -> list[Line]:
    sizes = Counter(one.groups[table] for one in kept)
    wrong = Counter(one.groups[table] for one in kept if not one.right)
    shown = set[str]()
    if whole.wrong is not None:
        shown = shown_of(sizes, wrong, _shuffled(sizes, kept))
    return [
        Line(whole.column, group, sizes[group], wrong[group] if group in shown else None) for group in sorted(sizes)
    ]


def shown_of(sizes: Mapping[str, int], wrong: Mapping[str, int], order: Iterable[str]) -> set[str]:
    """The groups of a table whose right and wrong answers are both told.

    Args:
        sizes: patients by group.
        wrong: of these, answered wrongly.
        order: all groups; the first of them that are told are kept back where what is left of the sums is too small.
    """
    shown = {group for group in sizes if min(wrong[group], sizes[group] - wrong[group]) >= LEAST}
    for group in order:
        left = sum(wrong[one] for one in sizes if one not in shown)
        rest = sum(sizes[one] for one in sizes if one not in shown) - left
        if not left + rest or min(left, rest) >= LEAST:
            break
        shown.discard(group)
    return shown


def _shuffled(groups: Iterable[str], kept: Sequence[Patient]) -> list[str]:
    """In an order that nobody outside can foresee: the smallest first would say of the small one how small it is."""
    keys = "".join(sorted(one.key for one in kept))
    return sorted(groups, key=lambda group: hashlib.sha256(f"{group} {keys}".encode()).digest())


def _order(column: Column) -> tuple[str, str, int, str]:
    return column.stream, column.tier, column.inclusion, column.truth
