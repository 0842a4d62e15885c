"""Base models, adapters and their revisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "trainer_0001"
down_revision = None
branch_labels = ("trainer",)
depends_on = None


def upgrade() -> None:
    """Adds the tables."""
    op.create_table(
        "base_models",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("source", sa.JSON, nullable=False),
        sa.Column("import_job", sa.String(200), nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("info", sa.JSON(none_as_null=True), nullable=True),
    )
    op.create_table(
        "adapters",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("revision_count", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "adapter_revisions",
        sa.Column("adapter", sa.String(200), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("training_job", sa.String(200), nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
    )
