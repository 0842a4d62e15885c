"""What judges said, by content key."""

import sqlalchemy as sa
from alembic import op

revision = "evaluator_0061"
down_revision = "evaluator_0060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "judgements",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("completion", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
