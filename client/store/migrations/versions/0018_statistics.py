"""What was told of versions to their vendors, and whom it counts."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "statistics_release",
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("patients", sa.Integer(), nullable=False),
        sa.Column("epsilon", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("asked_at", sa.Float(), nullable=True),
        sa.CheckConstraint("state in ('waiting', 'agreed', 'declined')", name=op.f("ck_statistics_release_state")),
        sa.PrimaryKeyConstraint("version_digest", "number", name=op.f("pk_statistics_release")),
    )
    op.create_table(
        "statistics_patient",
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("patient_key", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("version_digest", "patient_key", name=op.f("pk_statistics_patient")),
    )
    op.create_index(
        op.f("ix_statistics_patient_version_digest_number"), "statistics_patient", ["version_digest", "number"]
    )


def downgrade() -> None:
    op.drop_table("statistics_patient")
    op.drop_table("statistics_release")
