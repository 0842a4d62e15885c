"""The names of decision 18: challenge sets, annotation queues, accesses to holdouts."""

import sqlalchemy as sa
from alembic import op
from luthierd.storage.json_keys import rename_keys

revision = "evaluator_0070"
down_revision = "evaluator_0062"
branch_labels = None
depends_on = "ground_0001"

TABLES = {
    "difficult_sets": "challenge_sets",
    "general_suites": "retention_suites",
    "comparison_queues": "annotation_queues",
    "comparison_votes": "annotation_votes",
    "holdout_looks": "holdout_accesses",
}
KEYS = {
    "detectable_difference": "minimum_detectable_effect",
    "difficult_set": "challenge_set",
    "difficult_sha256": "challenge_sha256",
    "general_item_count": "retention_item_count",
    "generation": "loaded_adapter",
    "look_count": "access_count",
    ".figures": "overall",
    "retrievers.figures": "metrics",
    "measures": "metric_details",
    "cells": "confusion",
}
DOCUMENTS = [
    ("jobs", "payload", ["name"]),
    ("jobs", "result", ["name"]),
    ("evaluation_answers", "answer", ["evaluation", "arm", "row_id"]),
]


def upgrade() -> None:
    """Renames tables, a column, and the keys of stored documents."""
    op.drop_index("holdout_looks_of_a_holdout", "holdout_looks")
    for old, new in TABLES.items():
        op.rename_table(old, new)
    op.alter_column("holdout_accesses", "look_id", new_column_name="access_id", existing_type=sa.Text)
    op.create_index("holdout_accesses_of_a_holdout", "holdout_accesses", ["tenant", "rows_sha256", "number"])
    for table, column, primary_key in DOCUMENTS:
        rename_keys(op.get_bind(), table, column, primary_key=primary_key, keys=KEYS)
