"""The watch over what reads here: alarms, suspensions, second reads, later truths."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alarm",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("claim", sa.String(length=15), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("seen_by", sa.String(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.CheckConstraint("claim in ('error', 'missed', 'false_positive')", name=op.f("ck_alarm_claim")),
        sa.ForeignKeyConstraint(["version_digest"], ["version.digest"], name=op.f("fk_alarm_version_digest_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarm")),
    )
    op.create_index(op.f("ix_alarm_version_digest"), "alarm", ["version_digest"])
    op.create_table(
        "suspension",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=6), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("lifted_by", sa.String(), nullable=False),
        sa.Column("lifted_at", sa.Float(), nullable=True),
        sa.CheckConstraint("cause in ('alarm', 'person')", name=op.f("ck_suspension_cause")),
        sa.ForeignKeyConstraint(
            ["version_digest"], ["version.digest"], name=op.f("fk_suspension_version_digest_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suspension")),
    )
    op.create_index(op.f("ix_suspension_version_digest"), "suspension", ["version_digest"])
    op.create_table(
        "second_read",
        sa.Column("outcome_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=15), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("drawn", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "kind in ('discordant', 'double_positive', 'double_negative')", name=op.f("ck_second_read_kind")
        ),
        sa.ForeignKeyConstraint(["outcome_id"], ["outcome.id"], name=op.f("fk_second_read_outcome_id_outcome")),
        sa.PrimaryKeyConstraint("outcome_id", name=op.f("pk_second_read")),
    )
    op.create_table(
        "later_truth",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("finding", sa.String(), nullable=False),
        sa.Column("answer", sa.String(length=14), nullable=False),
        sa.Column("tier", sa.String(length=15), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("source", sa.String(length=4), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("imported_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_later_truth_study_uid_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_later_truth")),
    )
    op.create_index(op.f("ix_later_truth_study_uid"), "later_truth", ["study_uid"])
    op.create_index(op.f("ix_later_truth_reference"), "later_truth", ["reference"])


def downgrade() -> None:
    op.drop_table("later_truth")
    op.drop_table("second_read")
    op.drop_table("suspension")
    op.drop_table("alarm")
