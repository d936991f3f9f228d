"""The versions that serve here, verified and tested when they are loaded, and what is known of them."""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from sqlalchemy import select

from client.inference.choice import EVERYBODY, Counts, Record
from client.inference.engine import Engine
from client.inference.measured import Measured
from client.inference.preparation import Preparation
from client.inference.serving import Outlining, Scoring, Serving
from client.inference.volume_engine import VolumeEngine
from client.inference.workshop import Workshop
from client.store import suspensions, versions
from client.store.countersigned import verified
from client.store.site import Site
from client.store.tables import outcome, shadow, study
from client.vigilance import register
from models.bundle import Bundle
from models.errors import BundleRefused, InvalidPreprocessing, VigieError

log = logging.getLogger(__name__)

_RECORD_SECONDS: Final = 300.0


class Panel:
    """The adopted versions of a site; asks the database each time, loads only what changed.

    Args:
        workshop: where is kept what this machine makes and measures of them; None: in the site.
    """

    def __init__(self, site: Site, workshop: Workshop | None = None) -> None:
        self._site = site
        self._workshop = workshop
        self._loaded: dict[str, Serving] = {}
        self._aside: Serving | None = None
        self._record: Record = {}
        self._record_at = float("-inf")
        self._lock = threading.RLock()  # several studies are read at once, and a version is loaded once

    def members(self) -> Sequence[Serving]:
        """The versions that may read, the last adopted first, suspended ones among them; none where none is adopted.

        Raises:
            BundleRefused: an adopted version's files are not what its digest and a trusted signature say.
        """
        with self._lock:
            held, suspended = versions.panel(self._site), suspensions.standing(self._site)
            loaded, self._loaded = self._loaded, {}  # nothing serves on when loading its successor fails
            members = [
                replace(self._served(one, loaded.get(one.digest)), suspended=one.digest in suspended) for one in held
            ]
            self._loaded = {member.bundle.digest: member for member in members}
            return members

    def warm(self) -> None:
        """Load what serves and let it prepare and compute something, so that the first study does not pay for it.

        A version that cannot be loaded is no reason not to start: its studies will say so.
        """
        try:
            for member in self.members():
                shape = member.bundle.facts.input_shape[1:]
                ramp = np.linspace(0, 1, math.prod(shape), dtype=np.float32).reshape(shape)
                if isinstance(member, Scoring):
                    member.preprocessing(ramp)
                else:
                    member.preprocessing.intensities(ramp)
        except VigieError as error:
            log.error("not warm: %s", error)

    def load(self, digest: str) -> Serving:
        """A version that is not asked, for shadow reading; kept while it is the last one.

        Raises:
            BundleRefused: as `members`.
        """
        held = versions.find(self._site, digest)
        if held is None:
            raise BundleRefused(f"{digest[:12]}: not held here")
        with self._lock:
            known = self._aside if self._aside and self._aside.bundle.digest == digest else self._loaded.get(digest)
            self._aside = self._served(held, known)
            return self._aside

    def record(self) -> Record:
        """What is known here of the versions' calls; a few minutes old at most."""
        with self._lock:
            if len(self._loaded) < 2:
                return {}  # nothing to choose between
            if time.monotonic() - self._record_at > _RECORD_SECONDS:
                self._record, self._record_at = record(self._site), time.monotonic()
            return self._record

    def _served(self, held: versions.HeldVersion, loaded: Serving | None) -> Serving:
        served = loaded or load(self._site, held.digest, self._workshop)
        threshold = served.bundle.facts.threshold if held.threshold is None else held.threshold
        return replace(served, threshold=threshold)


def record(site: Site) -> Record:
    """Each version's calls against the truth, of the studies it read and of those it read in shadow."""
    cases = {case.study_uid: case for case in register.cases(site)}
    shown = select(study.c.uid, outcome.c.version_digest, outcome.c.positive, outcome.c.stratum).join(
        study, (study.c.uid == outcome.c.study_uid) & (study.c.revision == outcome.c.revision)
    )
    aside = (
        select(study.c.uid, shadow.c.version_digest, shadow.c.positive, outcome.c.stratum)
        .join(outcome, outcome.c.id == shadow.c.outcome_id)
        .join(study, (study.c.uid == outcome.c.study_uid) & (study.c.revision == outcome.c.revision))
    )
    found: dict[tuple[str, str], Counts] = {}
    with site.database.read() as connection:
        for row in (*connection.execute(shown), *connection.execute(aside)):
            case = cases.get(row.uid)
            if case is None or row.positive is None or not register.concerns(site, case, row.version_digest):
                continue
            for key in {(row.version_digest, EVERYBODY), (row.version_digest, row.stratum)}:
                found[key] = found.get(key, Counts()).with_case(called=row.positive, truth=case.positive)
    return found


def load(site: Site, digest: str, workshop: Workshop | None = None) -> Serving:
    """Verify a version of this site, load it, let it pass its reference cases, and find out what is fast here.

    Whoever adopts a version loads it first: what is measured then, some seconds, is remembered when it serves.

    Args:
        workshop: as for `Panel`.

    Raises:
        BundleRefused: missing, altered, not signed by someone trusted here, of another digest, failing its test, or
            with declared steps that cannot be done.
    """
    bundle = verified(site, digest)
    threads, threshold = site.threads, bundle.facts.threshold
    kept = workshop or Workshop(site.engines, site.measured)
    folder, declared = kept.engines / digest, bundle.facts.segmentation
    preprocessing = _preparation(kept, bundle, threads)
    if declared is not None:
        engine = VolumeEngine(bundle, declared, threads, folder)
        return Outlining(bundle, engine, preprocessing, declared, threshold, bundle.read_volume_novelty())
    return Scoring(bundle, Engine(bundle, threads, folder), preprocessing, threshold, bundle.read_novelty())


def _preparation(kept: Workshop, bundle: Bundle, threads: int) -> Preparation:
    """The declared steps, tried on a made-up picture: a signature says who declared them, not that they can be done."""
    facts = bundle.facts
    try:
        preparation = Preparation(
            bundle.preprocessing,
            Measured(kept.measured),
            threads,
            volumes=facts.segmentation is not None,
            shape=facts.input_shape,
        )
    except (InvalidPreprocessing, OSError, ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, InvalidPreprocessing) else type(error).__name__
        raise BundleRefused(f"{facts.label}: no preprocessing that could be done: {why}") from error
    if why := preparation.settle().unusable:
        raise BundleRefused(f"{facts.label} can read no study: its preprocessing fails on a made-up picture: {why}")
    return preparation
