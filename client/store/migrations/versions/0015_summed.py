"""What a hospital has decided for good about the sums that its updates are in."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summed",
        sa.Column("retraining", sa.String(length=63), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("retraining", "round", name=op.f("pk_summed")),
    )


def downgrade() -> None:
    op.drop_table("summed")
