"""The process that reads studies: `python -m client.inference.worker --site DIR`.

One worker at a time holds a site's `worker.lock`; a new one waits until the old one is gone. It prints `ready` once it
takes studies. Its parent writes to its standard input when studies are queued, so that it looks at once; it ends when
that closes, which is how it learns that its parent has died. A kill at any instant loses nothing: the study it had is
still queued.
"""

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from client import logs
from client.arrival.urgency import Turns
from client.cores import allowed
from client.delivery.commitment import Committer
from client.delivery.sender import Sender
from client.delivery.workflow import Follower
from client.inference import observed, outcomes, shadow
from client.inference.ahead import Ahead
from client.inference.batch import Batcher
from client.inference.memory import Memory, budgets, left, need
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Failed, Outcome, Pipeline, Scored, ScoredVolumes
from client.inference.priors import earlier
from client.inference.refusals import Refusals
from client.inference.scope import Reason
from client.inference.several import Several
from client.inference.shortage import Shortage
from client.inference.study import Study
from client.inference.tensors import Tensors
from client.inference.triage import Triage
from client.lean import without_unused
from client.store.archive import Archive
from client.store.database import Watch
from client.store.fullness import out_of_room
from client.store.site import Site
from client.vigilance import probation
from client.vigilance.calibration import Calibrations
from models.errors import BundleRefused

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.01
_LONGEST_IDLE_SECONDS = 0.5
_GRACE_SECONDS = 3.0
_IN_HAND = 4  # studies read and not yet written: each holds its pixels
_AT_ONCE = 4  # studies that are read at once, where there are as many cores


class Worker:
    """Takes queued studies until it is told to stop: some are read while the results of those before are written.

    Reading keeps processors busy, writing waits for the disk. Those that are read at once meet at the engine, which
    scores them together where that is faster (`batch.py`).

    Args:
        ahead: reads what comes of studies that are not complete, when nothing else waits; None: nobody does.
        memory: what studies may take.
        triage: looks at what waits before it is read; None: nobody does.
        expect: called when a study has a result that goes to the PACS, before its objects are made and once they are
            there.
        stop: set to stop after the studies in hand.
        queued: set when studies are queued, and unset here.
    """

    def __init__(
        self,
        site: Site,
        pipeline: Pipeline,
        archive: Archive,
        panel: Panel,
        ahead: Ahead | None,
        memory: Memory,
        triage: Triage | None,
        expect: Callable[[], None],
        stop: threading.Event,
        queued: threading.Event,
    ) -> None:
        self._site = site
        self._pipeline = pipeline
        self._archive = archive
        self._panel = panel
        self._ahead = ahead
        self._memory = memory
        self._triage = triage
        self._expect = expect
        self._turns = Turns()
        self._stop = stop
        self._queued = queued
        self._objects = partial(objects, wanted=site.config.results)
        self._refusals = Refusals(site, archive, panel.members)
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}
        self._in_hand: set[str] = set()
        self._unsaid: dict[str, Failed] = {}  # what came of studies and could not be written
        self._shortage = Shortage(site)
        self._room = threading.Semaphore(_IN_HAND)

    def run(self) -> None:
        """Read studies until stopped."""
        with (
            ThreadPoolExecutor(1, "conclude") as writing,
            Several(min(allowed().count, _AT_ONCE)) as reading,
            closing(Watch(self._site.database)) as watch,
        ):
            while not self._stop.is_set():
                reading.wait()
                self._queued.clear()  # before it is looked: what is queued after that is another one
                if not self._turn(reading, writing) and not self._look_ahead() and (self._in_hand or not self._aside()):
                    watch.wait(self._stop, _IDLE_SECONDS, _LONGEST_IDLE_SECONDS, self._queued)

    def _turn(self, reading: Several, writing: ThreadPoolExecutor) -> bool:
        """Begin one study, if there is one; whatever goes wrong with it stays with it."""
        if self._shortage.lasts():
            return False
        now = time.monotonic()
        with self._lock:
            self._not_before = {uid: at for uid, at in self._not_before.items() if at > now}
            skip = (*self._not_before, *self._in_hand)
        try:
            if self._triage is not None and self._sort(self._triage, skip):
                return True
            found = outcomes.take(self._site, skip, self._turns)
            if found is None:
                return False
        except Exception as error:  # noqa: BLE001  # the supervised boundary of this process
            self._survive(None, error)
            return True
        study = found.study if isinstance(found, outcomes.Exhausted) else found
        with self._lock:
            self._in_hand.add(study.uid)
        reading.begin(partial(self._read, found, study, writing), alone=study.attempts > 1)
        return True

    def _read(self, found: Study | outcomes.Exhausted, study: Study, writing: ThreadPoolExecutor) -> None:
        try:
            unsaid = self._unsaid.get(study.uid) if isinstance(found, outcomes.Exhausted) else None
            result, held = (unsaid, 0) if unsaid else self._result(found)
        except Exception as error:  # noqa: BLE001  # as above
            self._survive(study, error)
            with self._lock:
                self._in_hand.discard(study.uid)
            return
        self._room.acquire()
        writing.submit(self._finish, study, result, held)

    def _result(self, found: Study | outcomes.Exhausted) -> tuple[Outcome, int]:
        """What becomes of a study that was taken, and the memory that is reserved until that is written."""
        if isinstance(found, outcomes.Exhausted):
            return outcomes.crashed(self._site.config.max_attempts), 0
        taken = held = 0
        try:
            result, taken = self._memory.within(self._need(found), partial(self._pipeline.process, found))
            held = min(left(found.images), taken)
            if isinstance(result, Scored | ScoredVolumes):
                self._expect()
            return result, held
        finally:
            self._memory.release(taken - held)
            if self._ahead is not None:
                self._ahead.drop(found.uid)

    def _sort(self, triage: Triage, skip: Collection[str]) -> bool:
        try:
            return triage.step(skip)
        except Exception as error:  # the queue goes on without it
            log.error("triage failed: %s", type(error).__name__, exc_info=error)
            return False

    def _need(self, study: Study) -> int:
        try:
            return need([version.bundle.facts for version in self._panel.members()], study.images)
        except BundleRefused:
            return 0  # nothing reads it; the pipeline says so

    def _look_ahead(self) -> bool:
        try:
            return self._ahead is not None and self._ahead.step()
        except Exception as error:  # as in a turn: the study is read when it is complete
            log.error("reading ahead failed: %s", type(error).__name__, exc_info=error)
            return False

    def _aside(self) -> bool:
        """One study for a version that is not asked, when nothing else waits; nobody is shown what it says."""
        if self._shortage.lasts():
            return False
        try:
            due = shadow.due(self._site)
            if due is None:
                return False
            try:
                version = self._panel.load(due.digest)
                reading = partial(self._pipeline.read_by, due.study, [version])
                result, taken = self._memory.within(need([version.bundle.facts], due.study.images), reading)
                self._memory.release(taken)
            except BundleRefused as error:
                result = Failed(Reason(error.code, str(error)))
            shadow.keep(self._site, due, result)
            self._shortage.over()
            if self._site.config.gate.shadow_cases:
                probation.advance(self._site, due.digest)
        except Exception as error:  # as in a turn; it is not asked again before the next commit
            if out_of_room(error):
                self._shortage.met(None)
                return False
            log.error("shadow reading failed: %s", type(error).__name__, exc_info=error)
            return False
        return True

    def _finish(self, study: Study, result: Outcome, held: int) -> None:
        try:
            self._conclude(study, result)
        except Exception as error:  # noqa: BLE001  # as above
            self._survive(study, error)
        finally:
            with self._lock:
                self._in_hand.discard(study.uid)
            self._room.release()
            self._memory.release(held)

    def _conclude(self, study: Study, result: Outcome) -> None:
        if outcomes.conclude(self._site, self._archive, study, result, self._objects, self._refusals.mark):
            if isinstance(result, Scored | ScoredVolumes):
                self._expect()
            self._observe(study, result)
            log.info("study %s: %s", self._site.study_key(study.uid), type(result).__name__.lower())
        else:
            log.info("study %s: changed while it was read", self._site.study_key(study.uid))
        self._unsaid.pop(study.uid, None)
        self._shortage.over()

    def _observe(self, study: Study, result: Outcome) -> None:
        try:
            observed.keep(self._site, study, result)
        except Exception as error:  # the study is concluded; one that is not compared with others harms nobody
            key = self._site.study_key(study.uid)
            log.error("study %s: not observed: %s", key, type(error).__name__, exc_info=error)

    def _survive(self, study: Study | None, error: Exception) -> None:
        if out_of_room(error):
            self._wait_for_room(study)
            return
        key = self._site.study_key(study.uid) if study else "-"
        log.error("study %s: %s", key, type(error).__name__, exc_info=error)
        if study is None:
            self._stop.wait(1.0)
            return
        with self._lock:
            self._not_before[study.uid] = time.monotonic() + min(2.0**study.attempts / 4, 30.0)
        if study.attempts >= self._site.config.max_attempts:
            self._unsaid[study.uid] = failed = outcomes.failure(error)
            try:
                self._conclude(study, failed)
            except Exception as second:  # it stays queued, and is concluded when it can be
                log.error("study %s: not concluded: %s", key, type(second).__name__, exc_info=second)
                if out_of_room(second):
                    self._wait_for_room(study)

    def _wait_for_room(self, study: Study | None) -> None:
        """The study stays as it was before it was taken, and what is begun next is another one."""
        pause = self._shortage.met(study)
        if study is not None:
            with self._lock:
                self._not_before[study.uid] = time.monotonic() + pause


def run(site: Site) -> None:
    """Be the site's worker until the standard input closes or a signal says stop."""
    stop, queued = threading.Event(), threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    threading.Thread(target=_listen_to_parent, args=(stop, queued), name="parent", daemon=True).start()
    with (site.folder / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a new worker waits here for the old one to be gone
        if stop.is_set():
            return
        site.database.check()
        archive = Archive(site.archive)
        tensors, panel = Tensors(site.tensors, archive), Panel(site)
        for_reading, for_ahead = budgets(site.config.memory_mib)
        memory = Memory(for_reading)
        ahead = Ahead(site, archive, panel.members, for_ahead) if site.config.read_ahead else None
        pipeline = Pipeline(
            archive,
            tensors,
            panel.members,
            site.config.institution,
            partial(earlier, site),
            panel.record,
            heat_maps=site.config.results.heat_maps,
            confidence=Calibrations(site).confidence,
            reading=ahead,
            admit=memory.admit,
            batcher=Batcher(site.config.batch_wait_ms / 1000),
        )
        panel.warm()
        sender = Sender(site)
        sender.start()
        committer = Committer(site)
        if site.config.pacs.commitment:
            committer.start()
        follower = Follower(site)
        if site.config.ups.url:
            follower.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        log.info("worker ready")
        triage = Triage(site, pipeline, panel.members, memory) if site.config.urgency.triage else None
        Worker(site, pipeline, archive, panel, ahead, memory, triage, sender.expect, stop, queued).run()
        follower.stop(timeout=0.5)
        committer.stop(timeout=0.5)
        sender.stop(timeout=1.0)
        log.info("worker stopped")


def _listen_to_parent(stop: threading.Event, queued: threading.Event) -> None:
    while os.read(0, 4096):
        queued.set()
    stop.set()
    time.sleep(_GRACE_SECONDS)
    os._exit(1)  # a study that takes longer is read again by the next worker


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the queued studies of a site.")
    parser.add_argument("--site", type=Path, required=True)
    site = Site(parser.parse_args().site.resolve())
    logs.to_file(site.logs / "node.log")
    # torch, which MONAI brings at the first image, would take every core for a resize and spin for the others
    os.environ.setdefault("OMP_NUM_THREADS", str(site.threads))
    without_unused()
    run(site)
    logging.shutdown()
    os._exit(0)  # everything is committed; taking the libraries down in order would only cost seconds


if __name__ == "__main__":
    main()
