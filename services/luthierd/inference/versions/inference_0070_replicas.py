"""Replicas: who is live, the version of the desired state, intended changes and their proofs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0070"
down_revision = "inference_0061"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables, and the one row of the version."""
    desired = op.create_table(
        "replica_desired",
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(desired, [{"slot": 1, "version": 0}])
    op.create_table(
        "replicas",
        sa.Column("name", sa.String(120), primary_key=True),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("follows", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replica_intents",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("deployment", sa.String(200), nullable=False),
        sa.Column("coordinator", sa.String(120), nullable=False),
        sa.Column("revisions", sa.JSON, nullable=False),
    )
    op.create_table(
        "replica_proofs",
        sa.Column("intent", sa.String(32), primary_key=True),
        sa.Column("replica", sa.String(120), primary_key=True),
        sa.Column("refusal", sa.JSON(none_as_null=True), nullable=True),
    )
