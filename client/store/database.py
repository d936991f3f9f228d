"""One SQLite database per hospital, shared by its processes.

WAL with `synchronous=FULL`: a commit that returned survives power loss, which is what lets the gateway
acknowledge an instance. Writers take the lock at BEGIN, so that no transaction fails half-way on an upgrade.
"""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from client.store.fullness import PRIMARY, want_of_room
from models.errors import ConfigurationError

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATING = Lock()  # Alembic keeps its context in globals
_TOGETHER_SECONDS = 0.05  # commits that follow each other are told together


class Database:
    """A hospital's database.

    Args:
        path: the SQLite file; made and brought to the newest schema by `migrate`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30.0})
        _configure(self._engine)

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that holds the write lock from its start; rolled back on any exception."""
        with self._engine.connect() as connection, self._explained():
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A consistent snapshot."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    def migrate(self) -> None:
        """Bring the schema to the newest revision in one transaction; safe to call again, also after a kill."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        configuration = Config()
        configuration.set_main_option("script_location", _MIGRATIONS.as_posix())
        with _MIGRATING, self._engine.connect() as connection:
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")

    def check(self) -> None:
        """Refuse to work on a schema of another release.

        Raises:
            ConfigurationError: the database is missing, cannot be read, or is older or newer than this code.
        """
        if not self.path.exists():
            raise ConfigurationError(f"{self.path} is missing: run `vigie site init`")
        configuration = Config()
        configuration.set_main_option("script_location", _MIGRATIONS.as_posix())
        expected = ScriptDirectory.from_config(configuration).get_current_head()
        try:
            with self._engine.connect() as connection:
                found = MigrationContext.configure(connection).get_current_revision()
        except (DatabaseError, sqlite3.DatabaseError) as error:  # the second: from what is said to a new connection
            raise ConfigurationError(f"{self.path} cannot be read: {getattr(error, 'orig', error)}") from error
        if found != expected:
            raise ConfigurationError(f"{self.path} has schema {found}, this release needs {expected}")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Generator[None]:
        """SQLite calls a disk full, and one of which the quota is used up failing: find out which it is."""
        try:
            yield
        except DatabaseError as error:
            code: int = getattr(error.orig, "sqlite_errorcode", 0)
            if error.orig is not None and code & PRIMARY == sqlite3.SQLITE_IOERR:
                error.orig.__cause__ = want_of_room(self.path.parent)
            raise


class Watch:
    """Waits for somebody to commit, which costs some microseconds a look where a query costs a millisecond.

    Source: SQLite, PRAGMA data_version: changes when another connection, of any process, has committed.
    """

    def __init__(self, database: Database) -> None:
        self._connection = sqlite3.connect(database.path, check_same_thread=False)
        self._seen = self._version()
        self._returned_at = float("-inf")

    def wait(self, stop: Event, poll: float, longest: float, asked: Event | None = None) -> None:
        """Return once there was a commit since this last returned, once `stop` is set, or after the longest time.

        The first commit after some quiet is told at once; where one follows the other, some are told together.

        Args:
            poll: seconds between two looks.
            longest: seconds; for what becomes due by the clock alone.
            asked: once it is set, this returns at once: somebody knows that there is something to be done.
        """
        deadline = time.monotonic() + longest
        woken = asked or stop
        while not woken.wait(poll) and not stop.is_set():
            now = time.monotonic()
            if now >= deadline:
                break
            if now < self._returned_at + _TOGETHER_SECONDS:
                continue
            try:
                version = self._version()
            except sqlite3.Error:
                break  # whoever looks next with a query of its own finds out what is wrong, and says so
            if version != self._seen:
                self._seen = version
                break
        self._returned_at = time.monotonic()

    def close(self) -> None:
        self._connection.close()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def _configure(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we say BEGIN ourselves
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.close()
