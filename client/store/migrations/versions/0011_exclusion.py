"""Images that the PACS has rejected, or a person leaves out: they are not read."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exclusion",
        sa.Column("sop_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("document", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=13), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.Column("lifted_at", sa.Float(), nullable=True),
        sa.Column("lifted_by", sa.String(), server_default="", nullable=False),
        sa.CheckConstraint(
            "cause in ('quality', 'safety', 'worklist', 'other-patient')", name=op.f("ck_exclusion_cause")
        ),
        sa.PrimaryKeyConstraint("sop_uid", "study_uid", "document", name=op.f("pk_exclusion")),
    )
    op.create_index(op.f("ix_exclusion_study_uid"), "exclusion", ["study_uid"])


def downgrade() -> None:
    op.drop_table("exclusion")
