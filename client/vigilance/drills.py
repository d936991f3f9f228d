"""Fire drills: how soon this hospital would be warned if its studies changed, found out on changes that are made up.

A share of the newest studies is taken from the archive once more, changed as a new machine, a darker exposure, other
patients or a finding that nobody has seen would change them, and read by the version that serves, in shadow. What is
seen of them is appended, in memory, to what was seen of the real ones, and the comparison that watches those
(`drift.py`) runs on. Nobody is shown a result; no outcome, no trait and no error comes of a drill, only its own row,
which says what it was.
"""

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import gaussian_filter
from sqlalchemy import insert, select

from client.dicom import decode
from client.inference import observed
from client.inference.scope import unfamiliar
from client.inference.serving import Scoring
from client.inference.traits import traits_of
from client.store import ledger
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import drill, outcome, study, trait, version
from client.vigilance import drift
from client.vigilance.causes import Cause, Seen
from client.vigilance.drift import Observed, compared
from models.errors import Conflict, InvalidStudy

Pixels = NDArray[np.float32]
DAY: Final = 86400.0
MOST: Final = 300  # changed studies, after which a drill ends
_SINCE: Final = 365 * DAY  # the pace of the studies is that of the last year


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a drill changes.

    Attributes:
        text: for people.
        cause: that the warning should name.
        header: changes a copy of an image's header.
        pixels: changes its presentation values.
    """

    name: str
    text: str
    cause: Cause
    header: Callable[[Dataset], None]
    pixels: Callable[[Pixels, np.random.Generator], Pixels]


@dataclass(frozen=True, slots=True)
class Drilled:
    """What came of a drill.

    Attributes:
        share: of the studies that were changed.
        studies: since the change, changed or not, until the warning; None: there was none within `of`.
        of: studies that the drill had.
        days: that so many studies take here.
        cause: that the warning named.
        differences: that it told.
    """

    scenario: Scenario
    model: str
    share: float
    studies: int | None
    of: int
    days: float | None
    cause: Cause
    differences: tuple[str, ...]
    at: float
    by: str

    @property
    def named(self) -> bool:
        """Whether the warning named the right cause."""
        return self.studies is not None and self.cause is self.scenario.cause

    @property
    def outcome(self) -> str:
        """What came of it, for people."""
        if self.studies is None:
            return f"no warning within {self.of} studies"
        cause = "no cause named" if self.cause is Cause.UNKNOWN else f"named: {self.cause}"
        right = "" if self.named else f" (it was {self.scenario.cause})"
        return f"warned after {self.studies} studies, {self.days or 0:.0f} days here; {cause}{right}"


def run(
    site: Site,
    serving: Scoring,
    scenario: Scenario,
    share: float,
    by: str,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
    now: float | None = None,
) -> Drilled:
    """Run a drill on this hospital's newest studies and keep what came of it.

    Args:
        share: of the studies that are changed, above 0 and 1 at most.

    Raises:
        Conflict: fewer studies were read here than the comparison takes, or the studies have changed in earnest.
    """
    wanted, now = site.config.watch.reference, time.time() if now is None else now
    facts = serving.bundle.facts
    begin = drift.begin(site, facts.name)
    real = drift.read(site, facts.name, serving.bundle.digest, begin, {})
    if not wanted or len(real) <= wanted:
        raise Conflict(f"a drill takes more than {wanted} studies that {facts.name} read here; there are {len(real)}")
    if compared(facts.name, real, wanted, site.config.watch.false_warnings).cause is not None:
        raise Conflict(f"the studies of {facts.name} have changed in earnest: see `vigie site watch drift`")
    images = _newest(site, serving.bundle.digest)
    draw = np.random.default_rng(len(real))
    archive = Archive(site.archive)
    pace = _pace(real, now)
    made: list[Observed] = []
    for number, (digest, seen) in enumerate(images[:MOST]):
        at = now + (number + 1) * pace
        changed = _changed(archive, digest, serving, scenario, draw) if draw.random() < share else seen
        if changed is not None:
            made.append(Observed(at, True, changed))
        on_progress(number + 1, min(len(images), MOST))
    found = _alarm(facts.name, real, made, wanted, site.config.watch.false_warnings)
    days = None if found.studies is None else found.studies * pace / DAY
    drilled = replace(found, scenario=scenario, share=share, days=days, at=now, by=by)
    _keep(site, drilled)
    return drilled


def listed(site: Site) -> list[Drilled]:
    """The drills that were run here, newest first."""
    with site.database.read() as connection:
        rows = connection.execute(select(drill).order_by(drill.c.id.desc())).all()
    return [
        Drilled(
            SCENARIOS[row.scenario],
            row.name,
            row.share,
            row.studies,
            row.of,
            row.days,
            Cause(row.cause),
            tuple(row.differences),
            row.at,
            row.by,
        )
        for row in rows
        if row.scenario in SCENARIOS
    ]


def _alarm(name: str, real: Sequence[Observed], made: Sequence[Observed], wanted: int, a_year: float) -> Drilled:
    """How many of the made-up studies it takes until there is a warning that names a cause, or the drill ends."""
    nothing = Drilled(_NOTHING, name, 0.0, None, len(made), None, Cause.UNKNOWN, (), 0.0, "")
    whole = compared(name, [*real, *made], wanted, a_year)
    if whole.monitored is None or whole.monitored.course.alarm is None:
        return nothing
    first = whole.monitored.course.alarm - (whole.studies - len(made)) + 1
    if first <= 0:
        return nothing
    one, count = compared(name, [*real, *made[:first]], wanted, a_year), first
    while one.cause in (None, Cause.UNKNOWN) and count < len(made):
        count += 10
        one = compared(name, [*real, *made[:count]], wanted, a_year)
    texts = tuple(difference.text for difference in one.differences[:3])
    return replace(nothing, studies=first, cause=one.cause or Cause.UNKNOWN, differences=texts)


def _newest(site: Site, digest: str) -> list[tuple[str, Seen]]:
    """The images that the version's newest results rest on, by digest, and what was seen of them; oldest first."""
    query = (
        select(outcome.c.input_digest, trait)
        .join(trait, trait.c.outcome_id == outcome.c.id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(version.c.digest == digest, outcome.c.kind == "scored", outcome.c.revision == study.c.revision)
        .order_by(outcome.c.id.desc())
        .limit(MOST)
    )
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    return [(row.input_digest, Seen(observed.of_row(row))) for row in reversed(rows)]


def _changed(
    archive: Archive, digest: str, serving: Scoring, scenario: Scenario, draw: np.random.Generator
) -> Seen | None:
    """What would be seen of an image, had the scenario happened; None where it cannot be read any more."""
    path = archive.path(digest)
    try:
        header = decode.read_header(path)
        radiograph = decode.read(path, header)
        pixels = scenario.pixels(radiograph.pixels, draw)
        tensor = serving.preprocessing.made(pixels).tensor
    except (InvalidStudy, OSError):
        return None
    score = None
    if unfamiliar(serving.novelty, tensor) is None:
        score = float(serving.engine.scores(tensor[None])[0])
    changed: Dataset = copy(radiograph.header)
    scenario.header(changed)
    return Seen(traits_of(changed, pixels, score))


def _pace(real: Sequence[Observed], now: float) -> float:
    """Seconds between two studies here."""
    recent = [one.at for one in real if one.at > now - _SINCE]
    return max((now - min(recent, default=now - DAY)) / max(len(recent), 1), 1.0)


def _keep(site: Site, one: Drilled) -> None:
    values: dict[str, Any] = {
        "scenario": one.scenario.name,
        "name": one.model,
        "share": one.share,
        "studies": one.studies,
        "of": one.of,
        "days": one.days,
        "cause": str(one.cause),
        "differences": list(one.differences),
        "at": one.at,
        "by": one.by,
    }
    with site.database.write() as connection:
        connection.execute(insert(drill).values(**values))
        facts: dict[str, ledger.Fact] = {"scenario": one.scenario.name, "model": one.model, "by": one.by}
        ledger.append(connection, "drill.run", facts | {"warned": one.studies is not None, "named": one.named})


def _same_header(_header: Dataset) -> None:
    return


def _same_pixels(pixels: Pixels, _draw: np.random.Generator) -> Pixels:
    return pixels


def _of_other_machine(header: Dataset) -> None:
    header.Manufacturer = "Drill"
    header.ManufacturerModelName = "Counterfactual"
    header.DeviceSerialNumber = "0"
    header.SoftwareVersions = "drill"


def _sharper(pixels: Pixels, _draw: np.random.Generator) -> Pixels:
    soft = np.asarray(gaussian_filter(pixels, 1.5), np.float32)
    return (pixels + 0.8 * (pixels - soft)).astype(np.float32)


def _less_dose(header: Dataset) -> None:
    for keyword in ("ExposureInuAs", "Exposure", "ExposureIndex"):
        value = header.get(keyword)
        if value not in (None, ""):
            setattr(header, keyword, round(float(value) / 2))


def _grainy(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    low, high = (float(value) for value in np.percentile(pixels[::4, ::4], (0.5, 99.5)))
    noise = draw.normal(0, 0.03 * max(high - low, 1e-6), pixels.shape)
    return (pixels + noise).astype(np.float32)


def _older(header: Dataset) -> None:
    text = str(header.get("PatientAge") or "")
    years = int(text[:3]) if text[:3].isdigit() and text.endswith("Y") else 60
    header.PatientAge = f"{min(years + 25, 99):03d}Y"


def _patches(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Soft bright patches at the edges of both lungs."""
    high, wide = pixels.shape
    low, top = (float(value) for value in np.percentile(pixels[::4, ::4], (5, 95)))
    rows, columns = np.ogrid[0:high, 0:wide]
    made = pixels.astype(np.float32, copy=True)
    for _ in range(int(draw.integers(5, 9))):
        across = draw.uniform(0.12, 0.28) if draw.random() < 0.5 else draw.uniform(0.72, 0.88)
        y, x, size = high * draw.uniform(0.35, 0.8), wide * across, wide * draw.uniform(0.04, 0.08)
        made += np.float32(0.3 * (top - low)) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return made.astype(np.float32)


_NOTHING: Final = Scenario("", "", Cause.UNKNOWN, _same_header, _same_pixels)

SCENARIOS: Final[dict[str, Scenario]] = {
    one.name: one
    for one in (
        Scenario("scanner", "a new machine, with sharper pictures", Cause.TECHNIQUE, _of_other_machine, _sharper),
        Scenario("exposure", "half the exposure, with more grain", Cause.DOSE, _less_dose, _grainy),
        Scenario("age", "patients 25 years older", Cause.POPULATION, _older, _same_pixels),
        Scenario("finding", "a finding that nobody has seen", Cause.DISEASE, _same_header, _patches),
    )
}
