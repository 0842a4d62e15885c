"""The names of decision 18: loaded adapters and parity checks."""

import sqlalchemy as sa
from alembic import op
from luthierd.storage.json_keys import rename_keys

revision = "inference_0080"
down_revision = "inference_0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Renames tables, columns, and the keys and stages of stored parity checks."""
    op.alter_column("responses", "generation", new_column_name="loaded_adapter", existing_type=sa.String(64))
    op.rename_table("replica_proofs", "replica_parity_checks")
    op.rename_table("proofs", "parity_checks")
    op.alter_column("parity_checks", "proof", new_column_name="result", existing_type=sa.JSON)
    connection = op.get_bind()
    rename_keys(connection, "parity_checks", "result", primary_key=["sha256"], keys={"prove_time": "check_time"})
    checks = sa.table("parity_checks", sa.column("sha256"), sa.column("result", sa.JSON))
    for sha256, result in connection.execute(sa.select(checks)).all():
        for stage in result["stages"]:
            stage["name"] = "parity_check" if stage["name"] == "prove" else stage["name"]
        connection.execute(sa.update(checks).where(checks.c.sha256 == sha256).values(result=result))
