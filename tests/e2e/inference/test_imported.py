"""Adapters from elsewhere, served by the real engine: what it computes is what PEFT computes with the given folder."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
import torch
from luthier import AsyncClient, Endpoints
from luthierd.storage.manifests import checkout, put_folder
from luthierd.trainer.base_model_files import inspect
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.adapter_import import AdapterImportTask
from luthierd.trainer.importing import import_adapter
from support.inference_server import InferenceServer
from support.peft_folders import VARIETIES, peft_logits, write_peft_folder
from transformers import AutoTokenizer

pytestmark = pytest.mark.e2e

TENANT = "bring"
SERVED = [
    "rsLoRA by patterns",
    "some layers",
    "a regular expression",
    "all-linear but one",
    "a saved head",
    "the embedding",
]
PROMPT, SCORED = "a question", "an answer that nobody gave"
MAX_DIFFERENCE_NATS = 1e-4
"""As in test_parity.py, which says where it is from."""


async def test_imported_adapters_are_deployed_and_answer_as_in_peft(
    server: InferenceServer, tmp_path: pathlib.Path
) -> None:
    base = server.folder / "made/base"
    info = inspect(base, server.blobs)
    sources, revisions = {}, {}
    for number, variety in enumerate(SERVED, start=1):
        source = write_peft_folder(base, tmp_path / f"source-{number}", seed=number, **VARIETIES[variety])
        task = AdapterImportTask(
            adapter=f"tenants/{TENANT}/adapters/foreign",
            base_model="baseModels/tiny",
            base_model_info=info,
            files={path.name: server.blobs.put_file(path).sha256 for path in source.iterdir()},
            source_sha256=put_folder(server.blobs, source).sha256,
            subject="tester",
        )
        name = f"tenants/{TENANT}/adapterImports/i{number}"
        config = TrainerConfig(home=server.folder)
        made = await asyncio.to_thread(
            import_adapter, task, name=name, blobs=server.blobs, config=config, begin=lambda _: None
        )
        checkout(server.blobs, made.sha256, tmp_path / f"ours-{number}")
        revision = f"tenants/{TENANT}/adapters/foreign/revisions/r{number}"
        sources[variety], revisions[variety] = source, server.register(revision, tmp_path / f"ours-{number}")
    token, tokenizer = server.token(TENANT), AutoTokenizer.from_pretrained(base)
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), token) as client:
        for variety in SERVED:
            # A deploy passes only if the engine reproduces the references that PEFT computed at the import.
            name = f"tenants/{TENANT}/deployments/foreign"
            await client.deployments.deploy(name, adapter_revision=revisions[variety], timeout_s=300)
            scored = await client.inference.score(name, PROMPT, SCORED, timeout_s=300)
            ids = [one.token_id for one in scored.tokens]
            prompt_ids = list(tokenizer(PROMPT)["input_ids"])
            (logits,) = peft_logits(base, sources[variety], torch.tensor([prompt_ids + ids]))
            logprobs = torch.log_softmax(logits[0, len(prompt_ids) - 1 : -1], -1)
            expected = logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
            differences = [abs(one.logprob - other) for one, other in zip(scored.tokens, expected, strict=True)]
            assert max(differences) < MAX_DIFFERENCE_NATS, variety
