"""Versions that the coordinator withdrew."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "withdrawal",
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("notice", sa.String(), nullable=False),
        sa.Column("signer", sa.String(), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=7), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("served", sa.Boolean(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("seen_by", sa.String(), nullable=False),
        sa.CheckConstraint("state in ('obeyed', 'waiting', 'kept')", name=op.f("ck_withdrawal_state")),
        sa.PrimaryKeyConstraint("version_digest", name=op.f("pk_withdrawal")),
    )


def downgrade() -> None:
    op.drop_table("withdrawal")
