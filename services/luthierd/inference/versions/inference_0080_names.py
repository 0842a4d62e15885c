"""The names of decision 18: loaded adapters and parity checks."""

import sqlalchemy as sa
from alembic import op
from luthierd.storage.json_keys import rename_keys

revision = "inference_0080"
down_revision = "inference_0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Renames a column, and the keys of stored proofs."""
    op.alter_column("responses", "generation", new_column_name="loaded_adapter", existing_type=sa.String(64))
    rename_keys(op.get_bind(), "proofs", "proof", primary_key=["sha256"], keys={"prove_time": "check_time"})
