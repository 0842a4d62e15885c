"""Difficult sets, general suites, comparison queues and their votes."""

import sqlalchemy as sa
from alembic import op

revision = "evaluator_0060"
down_revision = "evaluator_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "difficult_sets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("kind_counts", sa.JSON, nullable=False),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "general_suites",
        sa.Column("base_model_sha256", sa.Text, primary_key=True),
        sa.Column("item_count", sa.Integer, primary_key=True),
        sa.Column("blob_sha256", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "comparison_queues",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("queue", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "comparison_votes",
        sa.Column("queue", sa.Text, primary_key=True),
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("rater", sa.Text, primary_key=True),
        sa.Column("vote", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
