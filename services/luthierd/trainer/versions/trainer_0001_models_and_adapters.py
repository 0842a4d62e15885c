"""Base models, adapters and their revisions."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_0001"
down_revision = None
branch_labels = ("trainer",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "base_models",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("import_job", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "adapters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "adapter_revisions",
        sa.Column("adapter", sa.Text, sa.ForeignKey("adapters.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("training_job", sa.Text, nullable=False, unique=True),
        sa.Column("create_time", sa.Float),
        sa.Column("content", sa.JSON),
    )
