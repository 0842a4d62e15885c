"""The snippets of docs/sdk.md run."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re

import pytest
from support.canned import Canned, serving

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sdk.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
ANSWERS = {
    "CurateDataset": {"revision": {"name": "tenants/acme/datasets/docs/revisions/r1"}},
    "GetDatasetRevision": {"revision": {"state": 2}},
    "ListDatasets": {"datasets": [{"name": "tenants/acme/datasets/docs"}]},
    "CreateTrainingJob": {"training_job": {"name": "tenants/acme/trainingJobs/j"}},
    "GetTrainingJob": {"training_job": {"state": 4, "adapter_revision": "tenants/acme/adapters/support/revisions/r1"}},
    "WatchTrainingJob": [{"event": {"event_id": 1, "progress": {"step": 1}}}, {"event": {"event_id": 2, "state": 4}}],
    "ChatStream": [{"delta": "Hello"}],
    "DeployAdapter": {"deployment": {"name": "tenants/acme/deployments/support"}},
}


def test_the_page_has_its_snippets():
    assert len(SNIPPETS) == 9


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.split("\n\n")[-1][:30].strip())
async def test_a_snippet_runs(snippet, tmp_path, monkeypatch, capsys):
    canned = Canned()
    canned.answers |= ANSWERS
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_TOKEN", "token")
    monkeypatch.delenv("LUTHIER_ENDPOINT", raising=False)
    monkeypatch.delenv("LUTHIER_PROFILE", raising=False)
    async with serving(canned) as address:
        services = {name: {"address": address} for name in ("curation", "trainer", "evaluator", "inference")}
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "installation.json").write_text(json.dumps({"services": services}))
        await asyncio.to_thread(exec, compile(snippet, str(PAGE), "exec"), {"__name__": "snippet"})
