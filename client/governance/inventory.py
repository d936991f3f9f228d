"""Every algorithm on site: versions that read here, what runs embedded in scanners, and other vendors' software.

Versions are listed by themselves; what else there is a person records, and of both who owns it, the stop rule,
certificate, insurance, the data protection officer and who was trained on it. An entry is a history: each change is
kept, the last one counts. Software that images name and nobody has recorded is shown, so that an update that a
manufacturer made by night is not missed.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import insert, select

from client.store import ledger, versions
from client.store.site import Site
from client.store.tables import algorithm, outcome, trait
from models.errors import ConfigurationError, NotFound

Kind = Literal["vigie", "embedded", "other"]
_SOON: Final = timedelta(days=60)
_LATELY: Final = 90 * 86400.0  # seconds, in which images name the software that made them
_FEW: Final = 3  # images: fewer may be a study from elsewhere


class Attestation(BaseModel):
    """Somebody was trained on an algorithm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person: str = Field(min_length=1)
    what: str = "trained on it"
    until: date | None = None


class Entry(BaseModel):
    """What a person records of an algorithm; of a version that reads here, beside what the version says itself.

    Attributes:
        where: of embedded software manufacturer and model of the machine, as its images name them.
        version: as the images name it, where they do.
        certificate: number and body.
        retired: it runs here no more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "other"
    title: str = ""
    vendor: str = ""
    version: str = ""
    where: str = ""
    purpose: str = ""
    owner: str = ""
    stop_rule: str = ""
    certificate: str = ""
    certificate_until: date | None = None
    insurance: str = ""
    insurance_until: date | None = None
    dpo: str = ""
    attestations: tuple[Attestation, ...] = ()
    retired: bool = False


COLUMNS: Final = ("name", *(name for name in Entry.model_fields if name != "retired"), "to look at")


@dataclass(frozen=True, slots=True)
class Listed:
    """One algorithm, and what of it a person should look at."""

    name: str
    entry: Entry
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Software that images name and nobody has recorded."""

    maker: str
    model: str
    software: str
    images: int


def record(site: Site, name: str, by: str, changes: dict[str, Any]) -> Entry:
    """Record an algorithm, or change what is recorded of it.

    Args:
        name: its key here; of a version that reads here the model's.
        changes: values by the names of `Entry`; others stay.

    Raises:
        ConfigurationError: no such value, or one that is not understood.
    """
    if not name or len(name) > 64 or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ConfigurationError(f"{name!r}: letters, digits, '-', '_' and '.', 64 at most")
    before = _recorded(site).get(name, Entry())
    try:
        after = Entry.model_validate(before.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if after == before:
        return after
    with site.database.write() as connection:
        values = {"name": name, "entry": json.loads(after.model_dump_json()), "by": by, "at": time.time()}
        connection.execute(insert(algorithm).values(**values))
        changed = sorted(key for key in Entry.model_fields if getattr(after, key) != getattr(before, key))
        ledger.append(connection, "inventory.changed", {"name": name, "what": ",".join(changed), "by": by})
    return after


def attest(site: Site, name: str, by: str, person: str, until: date | None, what: str = "") -> Entry:
    """Write down that somebody was trained on an algorithm; again, it takes the earlier attestation's place.

    Raises:
        NotFound: nobody has recorded it, and no version of this name reads here.
    """
    before = next((one.entry for one in listed(site) if one.name == name), None)
    if before is None:
        raise NotFound(f"{name!r} is not in the inventory")
    said = Attestation(person=person, until=until, **({"what": what} if what else {}))
    others = tuple(one for one in before.attestations if one.person != person)
    return record(site, name, by, {"attestations": (*others, said)})


def listed(site: Site, today: date | None = None) -> list[Listed]:
    """Every algorithm on site that is not retired, by name."""
    today = today or date.today()
    entries = {name: entry for name, entry in _recorded(site).items() if not entry.retired}
    for held in versions.panel(site):
        facts = versions.facts(site, held.digest)
        rule = site.config.watch.on_alarm
        own = {
            "kind": "vigie",
            "title": facts.title if facts else held.name,
            "vendor": facts.vendor if facts else "",
            "version": held.label,
            "purpose": facts.intended_use.statement if facts else "",
            "stop_rule": "harm alarm suspends it" if rule == "suspend" else "harm alarm warns a person",
        }
        said = entries.get(held.name, Entry())
        own |= {key: value for key in ("stop_rule",) if (value := getattr(said, key))}
        entries[held.name] = said.model_copy(update=own)
    return [Listed(name, entry, problems(entry, today)) for name, entry in sorted(entries.items())]


def history(site: Site, name: str) -> list[tuple[float, str, Entry]]:
    """What was recorded of an algorithm: when, by whom; oldest first."""
    query = select(algorithm).where(algorithm.c.name == name).order_by(algorithm.c.id)
    with site.database.read() as connection:
        return [(row.at, row.by, Entry.model_validate(row.entry)) for row in connection.execute(query)]


def problems(entry: Entry, today: date) -> tuple[str, ...]:
    """What is missing of an entry, has expired, or soon will. Pure."""
    found = [f"no {name.replace('_', ' ')}" for name in ("owner", "stop_rule", "dpo") if not getattr(entry, name)]
    for name in ("certificate", "insurance"):
        until: date | None = getattr(entry, f"{name}_until")
        if not getattr(entry, name):
            found.append(f"no {name}")
        elif until is not None and until < today:
            found.append(f"{name} expired on {until}")
        elif until is not None and until - today <= _SOON:
            found.append(f"{name} expires on {until}")
    for one in entry.attestations:
        if one.until is not None and one.until < today:
            found.append(f"{one.person}: attestation expired on {one.until}")
    return tuple(found)


def unrecorded(site: Site, now: float | None = None) -> list[Unrecorded]:
    """Software of machines whose images came lately, that no embedded entry names; the most frequent first."""
    now = time.time() if now is None else now
    query = select(trait.c.words).join(outcome, outcome.c.id == trait.c.outcome_id)
    with site.database.read() as connection:
        rows = connection.execute(query.where(outcome.c.created_at > now - _LATELY)).scalars().all()
    seen = Counter((words.get("maker", ""), words.get("model", ""), words.get("software", "")) for words in rows)
    known = {(one.where.casefold(), one.version) for one in _recorded(site).values() if one.kind == "embedded"}
    return [
        Unrecorded(maker, model, software, count)
        for (maker, model, software), count in seen.most_common()
        if count >= _FEW and software and (f"{maker} {model}".strip().casefold(), software) not in known
    ]


def table(found: Sequence[Listed]) -> list[dict[str, str]]:
    """The inventory as rows of text, for a CSV file or a page."""
    return [
        {
            "name": one.name,
            **{key: _text(getattr(one.entry, key)) for key in Entry.model_fields if key != "retired"},
            "to look at": "; ".join(one.problems),
        }
        for one in found
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        attested: tuple[Attestation, ...] = value
        return "; ".join(f"{one.person}: {one.what}{f' until {one.until}' if one.until else ''}" for one in attested)
    return "" if value is None else str(value)


def _recorded(site: Site) -> dict[str, Entry]:
    with site.database.read() as connection:
        rows = connection.execute(select(algorithm.c.name, algorithm.c.entry).order_by(algorithm.c.id)).all()
    return {row.name: Entry.model_validate(row.entry) for row in rows}
