"""Which versions are this hospital's own forms of others."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("version", sa.Column("form_of", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("version", "form_of")
