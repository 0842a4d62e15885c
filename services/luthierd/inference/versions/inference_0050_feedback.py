"""Answers that can be spoken about, feedback, capture policies, and what was captured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "inference_0050"
down_revision = "inference_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""
    op.create_table(
        "responses",
        sa.Column("response_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("generation", sa.String(64), nullable=False),
        sa.Column("deployment_revision", sa.BigInteger, nullable=False),
        sa.Column("adapter_revision", sa.String(200), nullable=False),
        sa.Column("base_model", sa.String(200), nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("finish_reason", sa.String(32), nullable=False),
        sa.Column("prompt_token_count", sa.BigInteger, nullable=False),
        sa.Column("completion_token_count", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.Float, nullable=False),
        sa.Column("latency_ms", sa.Float, nullable=False),
        sa.Column("mirror_of", sa.String(64), nullable=False),
        sa.Column("capture_file", sa.String(200), nullable=False),
    )
    op.create_index("responses_by_time", "responses", ["create_time"])
    op.create_table(
        "captured_texts",
        sa.Column("response_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("character_count", sa.BigInteger, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
    )
    op.create_index("captured_texts_by_tenant", "captured_texts", ["tenant", "create_time"])
    op.create_table(
        "feedback",
        sa.Column("response_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("update_time", sa.Float, nullable=False),
        sa.Column("rating", sa.String(16), nullable=False),
        sa.Column("correction", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
    )
    op.create_index("feedback_by_tenant", "feedback", ["tenant", "create_time"])
    op.create_table(
        "capture_policies",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("retention_s", sa.Float, nullable=False),
        sa.Column("sample_rate", sa.Float, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.Float, nullable=False),
        sa.Column("enabled_time", sa.Float, nullable=False),
    )
    op.create_table(
        "capture_files",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("oldest_time", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_index("capture_files_by_tenant", "capture_files", ["tenant", "name"])
