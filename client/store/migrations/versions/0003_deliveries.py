"""Deliveries that are checked and confirmed, earlier studies, recalls."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STUDY_BEFORE = "state in ('receiving', 'queued', 'scored', 'refused', 'failed')"
_STUDY = "state in ('receiving', 'queued', 'scored', 'refused', 'failed', 'prior')"
_DELIVERY_BEFORE = "state in ('pending', 'sent', 'failed')"
_DELIVERY = "state in ('pending', 'sent', 'committed', 'failed', 'quarantined', 'dropped')"


def upgrade() -> None:
    with op.batch_alter_table("study") as table:
        table.drop_constraint(op.f("ck_study_state"), type_="check")
        table.create_check_constraint(op.f("ck_study_state"), _STUDY)
    with op.batch_alter_table("delivery") as table:
        table.drop_constraint(op.f("ck_delivery_state"), type_="check")
        table.create_check_constraint(op.f("ck_delivery_state"), _DELIVERY)
        table.alter_column("state", type_=sa.String(length=11), existing_nullable=False)
        table.add_column(sa.Column("overridden", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("transaction_uid", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("asked", sa.Integer(), nullable=False, server_default="0"))
        table.create_index(op.f("ix_delivery_transaction_uid"), ["transaction_uid"])
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.CheckConstraint("state in ('asked', 'reported', 'unanswered')", name=op.f("ck_commitment_state")),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitment")),
    )
    op.create_index(op.f("ix_commitment_state_asked_at"), "commitment", ["state", "asked_at"])
    op.create_table(
        "prior_search",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.CheckConstraint("state in ('due', 'done', 'failed', 'not_asked')", name=op.f("ck_prior_search_state")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_prior_search_study_uid")),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_prior_search")),
    )
    op.create_index(op.f("ix_prior_search_state_not_before"), "prior_search", ["state", "not_before"])
    op.create_table(
        "prior",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("prior_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=7), nullable=False),
        sa.CheckConstraint("state in ('wanted', 'here', 'refused', 'failed')", name=op.f("ck_prior_state")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_prior_study_uid")),
        sa.PrimaryKeyConstraint("study_uid", "prior_uid", name=op.f("pk_prior")),
    )
    op.create_index(op.f("ix_prior_prior_uid"), "prior", ["prior_uid"])
    op.create_table(
        "recall",
        sa.Column("outcome_id", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=17), nullable=False),
        sa.Column("signer", sa.String(), nullable=False),
        sa.Column("document", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.CheckConstraint("action in ('withdrawn', 'to_signer', 'already_withdrawn')", name=op.f("ck_recall_action")),
        sa.ForeignKeyConstraint(["outcome_id"], ["outcome.id"], name=op.f("fk_recall_outcome_id")),
        sa.ForeignKeyConstraint(["version_digest"], ["version.digest"], name=op.f("fk_recall_version_digest")),
        sa.PrimaryKeyConstraint("outcome_id", name=op.f("pk_recall")),
    )
    op.create_index(op.f("ix_recall_version_digest"), "recall", ["version_digest"])


def downgrade() -> None:
    for table in ("recall", "prior", "prior_search", "commitment"):
        op.drop_table(table)
    op.execute("DELETE FROM delivery WHERE state IN ('quarantined', 'dropped')")
    op.execute("UPDATE delivery SET state = 'sent' WHERE state = 'committed'")
    op.execute("UPDATE study SET state = 'refused' WHERE state = 'prior'")
    with op.batch_alter_table("delivery") as table:
        table.drop_index(op.f("ix_delivery_transaction_uid"))
        for column in ("overridden", "transaction_uid", "asked"):
            table.drop_column(column)
        table.drop_constraint(op.f("ck_delivery_state"), type_="check")
        table.create_check_constraint(op.f("ck_delivery_state"), _DELIVERY_BEFORE)
        table.alter_column("state", type_=sa.String(length=7), existing_nullable=False)
    with op.batch_alter_table("study") as table:
        table.drop_constraint(op.f("ck_study_state"), type_="check")
        table.create_check_constraint(op.f("ck_study_state"), _STUDY_BEFORE)
