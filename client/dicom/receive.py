"""When a study is complete: its associations are gone and it has been quiet for a while.

DICOM has no "study complete". What has arrived stands in the database, so that a restart changes nothing; which
associations are open is known to the gateway only, and none is after a restart.
"""

import logging
import threading
import time
from collections.abc import Callable, Set
from contextlib import closing

from sqlalchemy import or_, select, update

from client.store.database import Database, Watch
from client.store.tables import study

log = logging.getLogger(__name__)

# a modality that keeps its association open all day must not hold its studies back
LONGEST_HOLD_SECONDS = 30.0
_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 0.5  # a study becomes complete by the clock, without anybody having written anything


def complete(database: Database, quiet_seconds: float, sending: Set[str] = frozenset()) -> int:
    """Queue every study that has been quiet for long enough.

    Args:
        sending: studies of open associations; they wait on, for `LONGEST_HOLD_SECONDS` at most.

    Returns:
        How many studies were queued.
    """
    now = time.time()
    # a clock that was set back must not hold a study until it has caught up
    quiet = or_(study.c.touched_at <= now - quiet_seconds, study.c.touched_at > now + 1)
    query = select(study.c.uid, study.c.touched_at).where(study.c.state == "receiving", quiet)
    with database.read() as connection:
        due = connection.execute(query).all()
    held = LONGEST_HOLD_SECONDS + quiet_seconds
    ready = [row for row in due if row.uid not in sending or not 0 <= now - row.touched_at < held]
    if not ready:
        return 0
    with database.write() as connection:
        return sum(
            connection.execute(
                update(study)
                .where(study.c.uid == row.uid, study.c.state == "receiving", study.c.touched_at == row.touched_at)
                .values(state="queued")
            ).rowcount
            for row in ready
        )


class Completion:
    """A thread that calls `complete` a few times a second while something comes in, until it is closed."""

    def __init__(self, database: Database, quiet_seconds: float, sending: Callable[[], Set[str]]) -> None:
        self._database = database
        self._quiet = quiet_seconds
        self._sending = sending
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with closing(Watch(self._database)) as watch:
            while not self._stop.is_set():
                try:
                    complete(self._database, self._quiet, self._sending())
                except Exception as error:  # noqa: BLE001  # supervised: a locked database passes, the next turn tries
                    log.error("completion failed: %s", type(error).__name__)
                watch.wait(self._stop, _POLL_SECONDS, _LONGEST_POLL_SECONDS)
