"""What this hospital was asked to agree to, and what it answered."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agreement",
        sa.Column("retraining", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("terms", sa.String(), nullable=False),
        sa.Column("signer", sa.String(), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("basis", sa.String(length=6), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("proposed_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("trained", sa.JSON(), nullable=False),
        sa.CheckConstraint("state in ('waiting', 'granted', 'declined', 'withdrawn')", name=op.f("ck_agreement_state")),
        sa.CheckConstraint("basis in ('', 'person', 'policy')", name=op.f("ck_agreement_basis")),
        sa.PrimaryKeyConstraint("retraining", name=op.f("pk_agreement")),
    )


def downgrade() -> None:
    op.drop_table("agreement")
