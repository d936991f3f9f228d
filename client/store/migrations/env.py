"""Alembic's entry: runs migrations on the connection that `Database.migrate` hands over, all of them or none.

SQLite takes back changes of a schema like any others, as long as they are in a transaction; Alembic does not ask for
one there, so it is begun here. A node killed in the middle finds the schema of before and migrates again.
"""

from alembic import context

from client.store.tables import metadata

connection = context.config.attributes["connection"]
driver = connection.connection.dbapi_connection  # whatever transaction its caller believes to be in
# SQLite alters a table by making it anew; what refers to the old one must not stop it from being dropped. The setting
# cannot be changed inside a transaction.
connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
try:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise RuntimeError("the migration would leave a row that refers to nothing")
    driver.commit()
except BaseException:
    driver.rollback()
    raise
finally:
    connection.exec_driver_sql("PRAGMA foreign_keys=ON")
