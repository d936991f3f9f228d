"""Who took part in a retraining, in which rounds, and why not in the others; read from its journal. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]


@dataclass(slots=True)
class Participation:
    """One hospital in one retraining.

    Attributes:
        said: what it said when it was asked: granted, declined, waiting (no answer in time), and why.
        trained: rounds whose mean has an update of it that was trained in them.
        late: rounds that it missed and whose update came in the next one, which it is part of instead.
        missed: rounds that have nothing of it, and the code why.
    """

    said: str = ""
    trained: set[int] = field(default_factory=set[int])
    late: set[int] = field(default_factory=set[int])
    missed: dict[int, str] = field(default_factory=dict[int, str])

    def told(self, rounds: int) -> str:
        """For a person, e.g. `2 of 3 rounds; round 2 late; round 3: silent`."""
        if not self.trained and not self.late and not self.missed:
            return self.said or "not asked"
        found = [f"{len(self.trained | self.late)} of {rounds} rounds"]
        if self.late:
            found.append(f"round {', '.join(map(str, sorted(self.late)))} late")
        found += [f"round {number}: {code}" for number, code in sorted(self.missed.items())]
        return "; ".join(found)


def participation(lines: Iterable[Line]) -> dict[str, Participation]:
    """By hospital, those that were only asked too; of several attempts the last answer to the terms counts."""
    found: dict[str, Participation] = {}

    def of(site: str) -> Participation:
        return found.setdefault(site, Participation())

    for line in lines:
        match line["step"]:
            case "started":
                for site in line["sites"]:
                    of(site)
            case "consent":
                of(line["site"]).said = f"{line['state']} ({', '.join(line['reasons'])})"
            case "round":
                number = int(line["round"])
                for site, facts in line["sites"].items():
                    if earlier := int(facts.get("late") or 0):
                        of(site).missed.pop(earlier, None)
                        of(site).late.add(earlier)
                    else:
                        of(site).trained.add(number)
                for site, code in line["failures"].items():
                    of(site).missed[number] = code
            case _:
                pass
    return dict(sorted(found.items()))


def contributed(lines: Iterable[Line]) -> list[set[str]]:
    """The hospitals that each round's training is known of, in order: a late update counts for the round it was
    trained in, and its hospital for the round whose mean it is in.
    """
    rounds: dict[int, set[str]] = {}
    for line in lines:
        if line["step"] == "round":
            number = int(line["round"])
            rounds[number] = set(line["sites"])
            for site, facts in line["sites"].items():
                if earlier := int(facts.get("late") or 0):
                    rounds[earlier].add(site)
    return [rounds[number] for number in sorted(rounds)]
