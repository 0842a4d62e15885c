"""The names of decision 18: settings are called as in PEFT and TRL."""

from alembic import op
from luthierd.storage.json_keys import rename_keys

revision = "trainer_0070"
down_revision = "trainer_0001"
branch_labels = None
depends_on = "ground_0001"

KEYS = {"max_row_tokens": "max_seq_length", "rank_stabilised": "use_rslora", "max_gradient_norm": "max_grad_norm"}


def upgrade() -> None:
    """Renames the keys of stored configurations."""
    for column in ("payload", "result"):
        rename_keys(op.get_bind(), "jobs", column, primary_key=["name"], keys=KEYS)
