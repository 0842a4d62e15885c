"""How a deployment's requests are split, and who answers copies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0061"
down_revision = "inference_0060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("deployments", sa.Column("shares", sa.JSON, nullable=True))
    op.add_column("deployments", sa.Column("mirror_sha256", sa.String(64), nullable=False, server_default=""))
