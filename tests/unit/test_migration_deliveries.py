"""A hospital's database of the release before is brought to this one with all that is in it."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from client.store import database
from client.store.database import Database
from client.store.tables import metadata

ROWS = (
    "INSERT INTO patient VALUES ('p', 'P1', '', 'train', 0, 1.0)",
    "INSERT INTO study VALUES ('1.2', 'p', 'A', 'PACS', 'scored', 1, 0, 1.0, 1.0)",
    "INSERT INTO instance VALUES (1, '1.3', 'aa', '1.2', '1.4', '1.5', '1.6', 1, 0, 1.0)",
    "INSERT INTO outcome VALUES (1, '1.2', 1, 'scored', '[]', NULL, NULL, NULL, 0.5, 0.5, 1, 'cpu', 1.0)",
    "INSERT INTO delivery VALUES ('1.7', 1, 'sr', 'bb', 'sent', 1, 0.0, '', 1.0)",
)


def test_what_was_there_is_there_afterwards(tmp_path: Path) -> None:
    held = Database(tmp_path / "site.db")
    configuration = Config()
    configuration.set_main_option("script_location", str(database._MIGRATIONS))
    with held._engine.connect() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        for row in ROWS:
            connection.exec_driver_sql(row)
        command.upgrade(configuration, "head")
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        for table in ("patient", "study", "instance", "outcome", "delivery"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 1, table
        row = connection.exec_driver_sql("SELECT state, overridden, transaction_uid, asked FROM delivery").one()
        assert tuple(row) == ("sent", "", None, 0)
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        command.downgrade(configuration, "0001")
        assert connection.exec_driver_sql("SELECT count(*) FROM instance").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    held.close()
