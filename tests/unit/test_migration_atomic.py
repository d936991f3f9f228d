"""A node that is killed in the middle of a migration migrates again and loses nothing."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from client.store import database
from client.store.database import Database
from client.store.tables import metadata

MIGRATIONS = Path(database.__file__).parent / "migrations"
ROWS = (
    "INSERT INTO patient VALUES ('p', 'P1', '', 'train', 0, 1.0)",
    "INSERT INTO study VALUES ('1.2', 'p', 'A', 'PACS', 'scored', 1, 0, 1.0, 1.0)",
    "INSERT INTO instance VALUES (1, '1.3', 'aa', '1.2', '1.4', '1.5', '1.6', 1, 0, 1.0)",
    "INSERT INTO outcome VALUES (1, '1.2', 1, 'scored', '[]', NULL, NULL, NULL, 0.5, 0.5, 1, 'cpu', 1.0)",
    "INSERT INTO delivery VALUES ('1.7', 1, 'sr', 'bb', 'sent', 1, 0.0, '', 1.0)",
)
KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy import event
from client.store.database import Database
held, seen = Database(Path(sys.argv[1])), []
@event.listens_for(held._engine, "before_cursor_execute")
def _(*told):
    seen.append(told[2])
    if len(seen) == int(sys.argv[2]):
        os._exit(9)
held.migrate()
"""


def _settings() -> Config:
    found = Config()
    found.set_main_option("script_location", MIGRATIONS.as_posix())
    return found


REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(_settings()).walk_revisions()))]


class Killed(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of the first release, with a study in it."""
    held = Database(tmp_path / "site.db")
    _to(held, "0001")
    with held.write() as connection:
        for row in ROWS:
            connection.exec_driver_sql(row)
    held.close()
    return held.path


def _to(held: Database, revision: str) -> None:
    configuration = _settings()
    with held._engine.connect() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, revision)


def _schema(held: Database) -> list[Any]:
    with held.read() as connection:
        return list(connection.exec_driver_sql("SELECT name, sql FROM sqlite_master ORDER BY name"))


def _whole(path: Path) -> None:
    held = Database(path)
    held.migrate()
    held.check()
    with held.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        for table in ("patient", "study", "instance", "outcome", "delivery"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 1, table
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    held.close()


@pytest.mark.parametrize(("before", "revision"), list(pairwise(REVISIONS)))
def test_each_migration_is_whole_or_not_at_all(old: Path, before: str, revision: str) -> None:
    held = Database(old)
    _to(held, before)
    found = _schema(held)
    statements: list[str] = []
    stop_at = 0

    @event.listens_for(held._engine, "before_cursor_execute")
    def _count(*told: Any) -> None:
        statements.append(told[2])
        if len(statements) == stop_at and "PRAGMA foreign_keys" not in told[2]:
            raise Killed

    killed = 0
    for stop_at in range(3, 1000, 3):  # every third statement: the others add time and no case
        statements.clear()
        try:
            _to(held, revision)
        except Killed:
            killed += 1
            statements.clear()
            assert _schema(held) == found, stop_at
        else:
            break
    assert killed >= 2
    stop_at = 0
    assert _schema(held) != found
    held.close()
    _whole(old)


@pytest.mark.parametrize("statement", [5, 40])
def test_a_killed_process_leaves_the_schema_of_before(old: Path, statement: int) -> None:
    held = Database(old)
    found = _schema(held)
    held.close()
    code = subprocess.run([sys.executable, "-c", KILLED, str(old), str(statement)], env=dict(os.environ), check=False)
    assert code.returncode == 9
    held = Database(old)
    assert _schema(held) == found
    held.close()
    _whole(old)
