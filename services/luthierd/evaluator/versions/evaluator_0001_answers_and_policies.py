"""Answers as they arrive, retrieval indexes, and stored gate policies."""

import sqlalchemy as sa
from alembic import op

revision = "evaluator_0001"
down_revision = None
branch_labels = ("evaluator",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation_answers",
        sa.Column("evaluation", sa.Text, primary_key=True),
        sa.Column("arm", sa.Text, primary_key=True),
        sa.Column("row_id", sa.Text, primary_key=True),
        sa.Column("answer", sa.JSON, nullable=False),
    )
    op.create_table(
        "retrieval_indexes",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("train_sha256", sa.Text, primary_key=True),
        sa.Column("embedder_sha256", sa.Text, primary_key=True),
        sa.Column("blob_sha256", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "gate_policies",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
