"""Recipes list stages, and what was called a step is called a stage (decision 20)."""

from typing import Any

from alembic import op
from luthierd.storage.json_keys import rename_keys, rewrite_documents

revision = "curation_0070"
down_revision = "curation_0001"
branch_labels = None
depends_on = "ground_0001"


def upgrade() -> None:
    """Rewrites the recipes of stored jobs; renames the keys of results, progress and events."""
    connection = op.get_bind()
    rewrite_documents(connection, "jobs", "payload", primary_key=["name"], rewrite=with_stages)
    result = {".steps": "stages", "steps.step": "stage"}
    rename_keys(connection, "jobs", "result", primary_key=["name"], keys=result)
    rename_keys(connection, "jobs", "progress", primary_key=["name"], keys={".step": "stage"})
    rename_keys(connection, "job_events", "data", primary_key=["job", "event_id"], keys={".step": "stage"})


def with_stages(payload: dict[str, Any]) -> dict[str, Any]:
    """A job's payload whose recipe lists the stages that its sections stood for. A threshold of 1 turned one off."""
    recipe = payload["recipe"]
    if "stages" in recipe:
        return payload
    threshold = recipe["deduplicate"]["near_duplicate_threshold"]
    near = [{"stage": "near_duplicates", "settings": {"threshold": threshold}}] if threshold < 1 else []
    stages = [
        {"stage": "clean", "settings": recipe["clean"]},
        {"stage": "exact_duplicates", "settings": {}},
        {"stage": "pii", "settings": recipe["pii"]},
        {"stage": "contradictions", "settings": {}},
        *near,
        {"stage": "split", "settings": recipe["split"]},
    ]
    return payload | {"recipe": {"stages": stages}}
