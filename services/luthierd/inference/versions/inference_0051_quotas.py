"""Tenants' quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0051"
down_revision = "inference_0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table."""
    op.create_table(
        "quotas",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("own", sa.JSON, nullable=False),
        sa.Column("update_time", sa.Float, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
    )
