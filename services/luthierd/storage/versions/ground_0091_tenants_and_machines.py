"""Jobs say whose they are, and where their worker runs."""

import sqlalchemy as sa
from alembic import op

revision = "ground_0091"
down_revision = "ground_0090"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("tenant", sa.Text, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("machine", sa.Text))
    op.add_column("jobs", sa.Column("worker_pid", sa.Integer))
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "start_time"])
    find = "instr" if op.get_bind().dialect.name == "sqlite" else "strpos"
    op.execute(
        f"UPDATE jobs SET tenant = substr(substr(name, 9), 1, {find}(substr(name, 9), '/') - 1)"  # noqa: S608
        " WHERE name LIKE 'tenants/%/%'"
    )
