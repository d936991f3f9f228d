"""A hospital's database goes to the next release with what is in it, and is then what the code says."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from client.store import database
from client.store.database import Database
from client.store.tables import metadata

MIGRATIONS = Path(database.__file__).parent / "migrations"


def test_a_database_of_the_first_release_keeps_its_studies_and_gets_the_present_schema(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    engine = create_engine(f"sqlite:///{path}")
    configuration = Config()
    configuration.set_main_option("script_location", MIGRATIONS.as_posix())
    with engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        connection.execute(
            text(
                "insert into study (uid, accession, calling_ae, state, revision, attempts, received_at, touched_at)"
                " values ('1.2.3', 'A', 'XRAY', 'receiving', 1, 0, 1.0, 2.0),"
                " ('1.2.4', '', '', 'queued', 1, 0, 1.0, 5.0)"
            )
        )
        connection.execute(
            text(
                "insert into instance (sop_uid, sha256, study_uid, series_uid, sop_class, transfer_syntax, revision,"
                " conflicting, received_at) values ('1.2.3.4', 'ab', '1.2.3', '1.2', '1', '1', 1, 0, 2.0)"
            )
        )
    Database(path).migrate()
    Database(path).check()
    with engine.connect() as connection:
        query = "select state, completed_at, completed_by, urgency, due_at from study order by uid"
        assert connection.execute(text(query)).all() == [
            ("receiving", None, "", "routine", None),
            ("queued", None, "", "routine", 3605.0),
        ]
        assert connection.execute(text("select calling_ae, number from instance")).all() == [("", None)]
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
