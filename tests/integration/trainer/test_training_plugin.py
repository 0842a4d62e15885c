"""A training method of another distribution: one file and an entry point, used through the SDK by server and worker."""

from __future__ import annotations

import json
import pathlib

import pytest
from google.protobuf import json_format
from luthier.errors import InvalidArgumentError
from luthier.trainer.v1.training_job_pb2 import TrainingConfig
from luthierd.storage.manifests import read_manifest
from support.plugins import install_plugin
from support.ports import free_port
from support.trainer_material import DATASET, installation

TENANT, ADAPTER, MODEL = "tenants/acme", "tenants/acme/adapters/smooth", "baseModels/tiny"
TIMEOUT_S = 240.0
RECIPE = '''
import dataclasses

from luthierd.settings import setting
from luthierd.trainer.recipes.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothSettings:
    smoothing: float = setting(0.1, at_least=0, below=1)


class Smooth(Recipe):
    """Supervised fine-tuning with smoothed labels."""

    name, Settings = "smooth", SmoothSettings
    description = "fine-tuning with smoothed labels"

    def encode(self, rows, tokenizer):
        from luthierd.trainer.blocks.encoding import encode_rows

        return encode_rows(rows, tokenizer, limit_tokens=self.config.max_seq_length)

    def build(self, model):
        from luthierd.trainer.blocks.lora import inject_lora

        return inject_lora(model, self.config)

    def loss(self, model, examples):
        import torch

        from luthierd.trainer.blocks.encoding import collate
        from luthierd.trainer.blocks.model import labelled_logits

        logits, labels = labelled_logits(model, collate(examples))
        smoothing = self.settings.smoothing
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing)
'''


async def test_a_method_of_another_distribution_trains_an_adapter(
    tmp_path: pathlib.Path, tiny_llama: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path / "site", "luthier.training_methods", "smooth", "Smooth", RECIPE, monkeypatch=monkeypatch)
    async with installation(tmp_path / "home", port=free_port()) as trainer, trainer.client() as client:
        await client.base_models.import_model("tiny", path=tiny_llama)
        await client.base_models.wait(MODEL)
        first_losses = {}
        for method, settings in (("sft", {}), ("smooth", {})):
            job = await client.training_jobs.create(
                TENANT,
                adapter=ADAPTER,
                base_model=MODEL,
                dataset_revision=DATASET,
                config=TrainingConfig(method=method, method_settings=settings, max_steps=2, rank=4, dtype="float32"),
            )
            done = await client.training_jobs.wait(job.name, timeout_s=TIMEOUT_S)
            losses = [event.progress.loss async for event in client.training_jobs.watch(job.name)]
            applied = json_format.MessageToDict(done.config.method_settings)
            first_losses[method, applied.get("smoothing")] = next(filter(None, losses))
        assert first_losses["smooth", 0.1] != first_losses["sft", None]

        revision = await client.adapters.get_revision(done.adapter_revision)
        files = read_manifest(trainer.blobs, revision.sha256).files
        lineage = json.loads(trainer.blobs.read_bytes(files["lineage.json"].sha256))
        assert (lineage["config"]["method"], lineage["config"]["method_settings"]) == ("smooth", {"smoothing": 0.1})
        assert b"made by fine-tuning with smoothed labels" in trainer.blobs.read_bytes(files["README.md"].sha256)

        for wrong, hint in (
            (TrainingConfig(method="smoth"), "training_job.config.method: 'smoth' is unknown; did you mean smooth?"),
            (TrainingConfig(method="smooth", method_settings={"smoothin": 1}), "did you mean smoothing?"),
            (
                TrainingConfig(method="smooth", method_settings={"smoothing": 1}),
                "training_job.config.method_settings.smoothing: must be at least 0 and below 1, not 1.0",
            ),
            (TrainingConfig(method_settings={"smoothing": 0.1}), "there are none"),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                await client.training_jobs.create(
                    TENANT, adapter=ADAPTER, base_model=MODEL, dataset_revision=DATASET, config=wrong
                )
            assert hint in str(caught.value)
