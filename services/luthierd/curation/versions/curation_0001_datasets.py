"""Datasets. Their revisions are jobs, whose result is the content."""

import sqlalchemy as sa
from alembic import op

revision = "curation_0001"
down_revision = None
branch_labels = ("curation",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("source_sha256", sa.Text, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.Float(53), nullable=False),
        sa.Column("update_time", sa.Float(53), nullable=False),
        sa.Column("revision_count", sa.BigInteger, nullable=False),
        sa.Column("latest_revision", sa.Text, nullable=False),
    )
