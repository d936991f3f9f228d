"""What was measured, and why this version read it; what versions in shadow said."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outcome", sa.Column("measurements", sa.JSON(), nullable=True))

    for name in ("stratum", "chosen", "chosen_text"):
        op.add_column("outcome", sa.Column(name, sa.String(), nullable=False, server_default=""))
    op.create_table(
        "shadow",
        sa.Column("outcome_id", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=7), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=True),
        sa.Column("positive", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("kind in ('scored', 'refused', 'failed')", name=op.f("ck_shadow_kind")),
        sa.ForeignKeyConstraint(["outcome_id"], ["outcome.id"], name=op.f("fk_shadow_outcome_id")),
        sa.ForeignKeyConstraint(["version_digest"], ["version.digest"], name=op.f("fk_shadow_version_digest")),
        sa.PrimaryKeyConstraint("outcome_id", "version_digest", name=op.f("pk_shadow")),
    )


def downgrade() -> None:
    op.drop_table("shadow")
    for name in ("chosen_text", "chosen", "stratum"):
        op.drop_column("outcome", name)
    op.drop_column("outcome", "measurements")
