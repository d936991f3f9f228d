"""What was measured stands with the outcome."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outcome", sa.Column("measurements", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("outcome", "measurements")
