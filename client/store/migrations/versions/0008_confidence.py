"""How sure a result is, as known when the study was read; how many images a study was called complete without."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outcome", sa.Column("confidence", sa.JSON(), nullable=True))
    op.add_column("study", sa.Column("missing", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("study", "missing")
    op.drop_column("outcome", "confidence")
