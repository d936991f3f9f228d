"""How urgent a study is and when it is due, who said so, and how large its images are."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ALLOWED_SECONDS = 3600.0


# added and dropped one by one in place: a batch would copy the whole table of a hospital that has run for years
def upgrade() -> None:
    op.add_column("study", sa.Column("urgency", sa.String(length=9), nullable=False, server_default="routine"))
    op.add_column("study", sa.Column("due_at", sa.Float(), nullable=True))
    op.execute(
        f"update study set due_at = coalesce(completed_at, touched_at) + {_ALLOWED_SECONDS} where state = 'queued'"
    )
    op.create_index(
        op.f("ix_study_waiting"), "study", ["urgency", "due_at"], unique=False, sqlite_where=sa.text("state = 'queued'")
    )
    for name in ("rows", "columns"):
        op.add_column("instance", sa.Column(name, sa.Integer(), nullable=True))
    op.create_table(
        "priority",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("urgency", sa.String(length=9), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("study_uid", "source", name=op.f("pk_priority")),
    )
    op.create_index(op.f("ix_priority_told_at"), "priority", ["told_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_priority_told_at"), table_name="priority")
    op.drop_table("priority")
    for name in ("columns", "rows"):
        op.drop_column("instance", name)
    op.drop_index(op.f("ix_study_waiting"), table_name="study")
    for name in ("due_at", "urgency"):
        op.drop_column("study", name)
