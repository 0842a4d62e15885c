"""Jobs, their events, and the answers kept for repeated request ids."""

import sqlalchemy as sa
from alembic import op

revision = "ground_0001"
down_revision = None
branch_labels = ("ground",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("lease_expire_time", sa.Float),
        sa.Column("last_event_id", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("start_time", sa.Float),
        sa.Column("end_time", sa.Float),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "create_time"])
    op.create_table(
        "job_events",
        sa.Column("job", sa.Text, sa.ForeignKey("jobs.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("event_id", sa.BigInteger, primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "replays",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
