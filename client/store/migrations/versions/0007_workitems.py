"""What the hospital's worklist is told of each study."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATES = "'due', 'scheduled', 'claimed', 'completed', 'canceled', 'absent', 'lost', 'failed'"


def upgrade() -> None:
    op.create_table(
        "workitem",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("told", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("not_before", sa.Float(), nullable=False, server_default="0"),
        sa.Column("problem", sa.String(), nullable=False, server_default=""),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint(f"state in ({_STATES})", name=op.f("ck_workitem_state")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_workitem_study_uid")),
        sa.PrimaryKeyConstraint("study_uid", "revision", name=op.f("pk_workitem")),
    )
    op.create_index(op.f("ix_workitem_state_not_before"), "workitem", ["state", "not_before"])


def downgrade() -> None:
    op.drop_table("workitem")
