"""What tells when a study is complete: numbers of its instances, announcements, habits of senders."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


# added and dropped one by one in place: a batch would copy the whole table of a hospital that has run for years
def _of_instances() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("calling_ae", sa.String(length=16), nullable=False, server_default=""),
        sa.Column("modality", sa.String(length=16), nullable=False, server_default=""),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("acquisition", sa.Integer(), nullable=True),
        sa.Column("stated", sa.Integer(), nullable=True),
        sa.Column("frames", sa.Integer(), nullable=True),
    )


def _of_studies() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("completed_at", sa.Float(), nullable=True),
        sa.Column("completed_by", sa.String(length=16), nullable=False, server_default=""),
    )


def upgrade() -> None:
    for table, columns in (("instance", _of_instances()), ("study", _of_studies())):
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "announcement",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.CheckConstraint("state in ('in progress', 'completed', 'discontinued')", name=op.f("ck_announcement_state")),
        sa.PrimaryKeyConstraint("uid", "study_uid", name=op.f("pk_announcement")),
    )
    op.create_index(op.f("ix_announcement_study_uid"), "announcement", ["study_uid"], unique=False)
    op.create_index(op.f("ix_announcement_created_at"), "announcement", ["created_at"], unique=False)
    op.create_table(
        "habit",
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("basis", sa.String(length=16), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.Column("clean", sa.Integer(), nullable=False),
        sa.Column("late", sa.Float(), nullable=False),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("calling_ae", "modality", "basis", name=op.f("pk_habit")),
    )


def downgrade() -> None:
    op.drop_table("habit")
    op.drop_index(op.f("ix_announcement_created_at"), table_name="announcement")
    op.drop_index(op.f("ix_announcement_study_uid"), table_name="announcement")
    op.drop_table("announcement")
    for table, columns in (("study", _of_studies()), ("instance", _of_instances())):
        for column in reversed(columns):
            op.drop_column(table, column.name)
