"""What a result was made from, and which results it takes the place of."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outcome", sa.Column("read", sa.JSON(), nullable=True))
    op.create_table(
        "succession",
        sa.Column("earlier_id", sa.Integer(), nullable=False),
        sa.Column("later_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["earlier_id"], ["outcome.id"], name=op.f("fk_succession_earlier_id")),
        sa.ForeignKeyConstraint(["later_id"], ["outcome.id"], name=op.f("fk_succession_later_id")),
        sa.PrimaryKeyConstraint("earlier_id", "later_id", name=op.f("pk_succession")),
    )
    # nobody wrote down what was read: who has read everything there was has read what the earlier one did
    op.execute(
        """
        insert into succession (earlier_id, later_id)
        select earlier.id, later.id from outcome as earlier
        join outcome as later on later.study_uid = earlier.study_uid and later.revision > earlier.revision
        join version as made on made.digest = earlier.version_digest
        join version as making on making.digest = later.version_digest
        where earlier.kind = 'scored' and later.kind = 'scored' and made.name = making.name
        and (later.reasons is null or later.reasons = '[]')
        """
    )


def downgrade() -> None:
    op.drop_table("succession")
    op.drop_column("outcome", "read")
