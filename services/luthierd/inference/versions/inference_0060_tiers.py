"""Pinned deployments, and the proofs of their generations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0060"
down_revision = "inference_0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column and the table."""
    op.add_column("deployments", sa.Column("is_pinned", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "proofs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("proof", sa.JSON, nullable=False),
    )
