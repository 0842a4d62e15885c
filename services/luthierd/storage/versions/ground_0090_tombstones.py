"""What is kept of a deleted resource."""

import sqlalchemy as sa
from alembic import op

revision = "ground_0090"
down_revision = "ground_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("blobs", sa.JSON, nullable=False),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("delete_time", sa.Float(53), nullable=False),
    )
