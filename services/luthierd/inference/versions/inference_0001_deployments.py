"""Deployments, their desired state, and the choice of the base model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0001"
down_revision = None
branch_labels = ("inference",)
depends_on = None


def upgrade() -> None:
    """Adds the tables."""
    op.create_table(
        "deployments",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("update_time", sa.Float, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("live", sa.JSON, nullable=True),
        sa.Column("candidate", sa.JSON, nullable=True),
        sa.Column("previous", sa.JSON, nullable=True),
    )
    op.create_table(
        "engine_choice",
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("base_model", sa.String(200), nullable=False),
        sa.Column("base_model_sha256", sa.String(64), nullable=False),
    )
