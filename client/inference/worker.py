"""The process that reads studies: `python -m client.inference.worker --site DIR`.

One worker at a time holds a site's `worker.lock`; a new one waits until the old one is gone. It prints `ready` once it
takes studies, and ends when its standard input closes, which is how it learns that its parent has died. A kill at any
instant loses nothing: the study it had is still queued.
"""

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from client import logs
from client.cores import allowed
from client.delivery.commitment import Committer
from client.delivery.sender import Sender
from client.inference import outcomes, shadow
from client.inference.batch import Batcher
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Failed, Outcome, Pipeline
from client.inference.priors import earlier
from client.inference.scope import Reason
from client.inference.several import Several
from client.inference.study import Study
from client.inference.tensors import Tensors
from client.lean import without_mlflow
from client.store.archive import Archive
from client.store.database import Watch
from client.store.site import Site
from models.errors import BundleRefused

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.05
_LONGEST_IDLE_SECONDS = 0.5
_GRACE_SECONDS = 3.0
_IN_HAND = 4  # studies read and not yet written: each holds its pixels
_AT_ONCE = 4  # studies that are read at once, where there are as many cores


class Worker:
    """Takes queued studies until it is told to stop: some are read while the results of those before are written.

    Reading keeps processors busy, writing waits for the disk. Those that are read at once meet at the engine, which
    scores them together where that is faster (`batch.py`).

    Args:
        stop: set to stop after the studies in hand.
    """

    def __init__(self, site: Site, pipeline: Pipeline, archive: Archive, panel: Panel, stop: threading.Event) -> None:
        self._site = site
        self._pipeline = pipeline
        self._archive = archive
        self._panel = panel
        self._stop = stop
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}
        self._in_hand: set[str] = set()
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
                if not self._turn(reading, writing) and (self._in_hand or not self._aside()):
                    watch.wait(self._stop, _IDLE_SECONDS, _LONGEST_IDLE_SECONDS)

    def _turn(self, reading: Several, writing: ThreadPoolExecutor) -> bool:
        """Begin one study, if there is one; whatever goes wrong with it stays with it."""
        now = time.monotonic()
        with self._lock:
            self._not_before = {uid: at for uid, at in self._not_before.items() if at > now}
            skip = (*self._not_before, *self._in_hand)
        try:
            taken = outcomes.take(self._site, skip=skip)
            if taken is None:
                return False
        except Exception as error:  # noqa: BLE001  # the supervised boundary of this process
            self._survive(None, error)
            return True
        study = taken.study if isinstance(taken, outcomes.Exhausted) else taken
        with self._lock:
            self._in_hand.add(study.uid)
        reading.begin(partial(self._read, taken, study, writing), alone=study.attempts > 1)
        return True

    def _read(self, taken: Study | outcomes.Exhausted, study: Study, writing: ThreadPoolExecutor) -> None:
        try:
            result = (
                outcomes.crashed(self._site.config.max_attempts)
                if isinstance(taken, outcomes.Exhausted)
                else self._pipeline.process(study)
            )
        except Exception as error:  # noqa: BLE001  # as above
            self._survive(study, error)
            with self._lock:
                self._in_hand.discard(study.uid)
            return
        self._room.acquire()
        writing.submit(self._finish, study, result)

    def _aside(self) -> bool:
        """One study for a version that is not asked, when nothing else waits; nobody is shown what it says."""
        try:
            due = shadow.due(self._site)
            if due is None:
                return False
            try:
                result = self._pipeline.read_by(due.study, [self._panel.load(due.digest)])
            except BundleRefused as error:
                result = Failed(Reason(error.code, str(error)))
            shadow.keep(self._site, due, result)
        except Exception as error:  # as in a turn; it is not asked again before the next commit
            log.error("shadow reading failed: %s", type(error).__name__, exc_info=error)
            return False
        return True

    def _finish(self, study: Study, result: Outcome) -> None:
        try:
            self._conclude(study, result)
        except Exception as error:  # noqa: BLE001  # as above
            self._survive(study, error)
        finally:
            with self._lock:
                self._in_hand.discard(study.uid)
            self._room.release()

    def _conclude(self, study: Study, result: Outcome) -> None:
        if outcomes.conclude(self._site, self._archive, study, result, objects):
            log.info("study %s: %s", self._site.study_key(study.uid), type(result).__name__.lower())
        else:
            log.info("study %s: changed while it was read", self._site.study_key(study.uid))

    def _survive(self, study: Study | None, error: Exception) -> None:
        key = self._site.study_key(study.uid) if study else "-"
        log.error("study %s: %s", key, type(error).__name__, exc_info=error)
        if study is None:
            self._stop.wait(1.0)
            return
        with self._lock:
            self._not_before[study.uid] = time.monotonic() + min(2.0**study.attempts / 4, 30.0)
        if study.attempts >= self._site.config.max_attempts:
            try:
                self._conclude(study, outcomes.failure(error))
            except Exception as second:  # e.g. the disk is full: it stays queued, and is concluded when it can be
                log.error("study %s: not concluded: %s", key, type(second).__name__, exc_info=second)


def run(site: Site) -> None:
    """Be the site's worker until the standard input closes or a signal says stop."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    threading.Thread(target=_stop_with_parent, args=(stop,), name="parent", daemon=True).start()
    with (site.folder / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a new worker waits here for the old one to be gone
        if stop.is_set():
            return
        site.database.check()
        archive = Archive(site.archive)
        tensors, panel = Tensors(site.tensors, archive), Panel(site)
        pipeline = Pipeline(
            archive,
            tensors,
            panel.members,
            site.config.institution,
            partial(earlier, site),
            panel.record,
            Batcher(site.config.batch_wait_ms / 1000),
        )
        panel.warm()
        sender = Sender(site)
        sender.start()
        committer = Committer(site)
        if site.config.pacs.commitment:
            committer.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        log.info("worker ready")
        Worker(site, pipeline, archive, panel, stop).run()
        committer.stop(timeout=0.5)
        sender.stop(timeout=1.0)
        log.info("worker stopped")


def _stop_with_parent(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
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
    without_mlflow()
    run(site)
    logging.shutdown()
    os._exit(0)  # everything is committed; taking the libraries down in order would only cost seconds


if __name__ == "__main__":
    main()
