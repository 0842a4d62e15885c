"""The ledger of looks at holdouts; answers by tenant and content."""

import sqlalchemy as sa
from alembic import op

revision = "evaluator_0062"
down_revision = "evaluator_0061"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "holdout_looks",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("look_id", sa.Text, nullable=False, unique=True),
        sa.Column("final_key", sa.Text, unique=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("rows_sha256", sa.Text, nullable=False),
        sa.Column("is_final", sa.Boolean, nullable=False),
        sa.Column("evaluation", sa.Text, nullable=False),
        sa.Column("adapter_revision", sa.Text, nullable=False),
        sa.Column("adapter_sha256", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("gate_policy", sa.Text, nullable=False),
        sa.Column("gate_outcome", sa.Text, nullable=False),
    )
    op.create_index("holdout_looks_of_a_holdout", "holdout_looks", ["tenant", "rows_sha256", "number"])
    op.add_column("evaluation_answers", sa.Column("tenant", sa.Text))
    op.add_column("evaluation_answers", sa.Column("content_key", sa.Text))
    op.create_index("evaluation_answers_by_content", "evaluation_answers", ["tenant", "content_key"])
