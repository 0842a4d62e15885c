"""What in the inference service refers to models of the trainer, and what holds blobs."""

from __future__ import annotations

import sqlalchemy as sa

from luthierd.storage.references import NAME, Referrers
from luthierd.storage.sweep import Root

REFERRERS = (
    Referrers(table="deployments", columns=["live", "candidate", "previous"], needs=sa.true()),
    Referrers(table="engine_choice", columns=["base_model"], name=sa.literal("engine", sa.Text), needs=sa.true()),
)

ROOTS = (
    Root(table="deployments", columns=["live", "candidate", "previous"]),
    Root(table="engine_choice", columns=["base_model_sha256"]),
    Root(table="capture_files", columns=["sha256"], owner=NAME),
)
