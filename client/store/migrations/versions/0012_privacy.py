"""What the patients' privacy was spent on."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "privacy_charge",
        sa.Column("order_sha256", sa.String(length=64), nullable=False),
        sa.Column("occasion", sa.String(length=64), nullable=False),
        sa.Column("retraining", sa.String(length=63), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("unit", sa.String(length=7), nullable=False),
        sa.Column("noise", sa.Float(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.CheckConstraint("unit in ('patient', 'site')", name=op.f("ck_privacy_charge_unit")),
        sa.PrimaryKeyConstraint("order_sha256", "occasion", name=op.f("pk_privacy_charge")),
    )


def downgrade() -> None:
    op.drop_table("privacy_charge")
