"""The trainer's own processes on a tiny model: an API server, its workers, and what is left of both after `kill -9`."""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import AsyncIterator, Iterator

import luthier
import pytest
import pytest_asyncio
import torch
from luthier import AsyncClient
from luthier import errors as client_errors
from luthier.trainer.v1 import base_model_pb2, training_job_pb2
from luthierd.storage.manifests import checkout
from peft import PeftModel
from support.ports import free_port
from support.small_hub import COMMIT, SmallHub, small_hub
from support.tiny_model import write_base_model
from support.trainer_material import DATASET, Installation, adapter_files, installation
from support.waiting import until
from transformers import AutoModelForCausalLM

TENANT, MODEL, ADAPTER = "tenants/acme", "baseModels/tiny", "tenants/acme/adapters/support"
CONFIG = {
    "rank": 4,
    "batch_size": 8,
    "micro_batch_size": 4,
    "learning_rate": 0.005,
    "early_stopping_patience": 0,
    "dtype": "float32",  # PEFT's, with which the results are compared; processors with bfloat16 would choose that
}
TIMEOUT_S = 240.0

# One installation for all tests, with one imported model: each start and each import loads torch. Adapters keep apart.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_base_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hub(base_folder: pathlib.Path) -> Iterator[SmallHub]:
    """A hub with the tiny model, for those who have the token."""
    with small_hub(SmallHub(base_folder, token="hf_of_the_operator")) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainer(
    tmp_path_factory: pytest.TempPathFactory, base_folder: pathlib.Path, hub: SmallHub
) -> AsyncIterator[Installation]:
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
    home = tmp_path_factory.mktemp("trainer") / "home"
    async with installation(home, port=free_port(), environment=environment) as made:
        async with made.client() as client:
            await client.base_models.import_model("tiny", path=base_folder)
            await wait_for_model(client)
        yield made


async def wait_for_model(client: AsyncClient, name: str = MODEL) -> base_model_pb2.BaseModel:
    async def imported() -> base_model_pb2.BaseModel | None:
        model = await client.base_models.get(name)
        return None if model.state == base_model_pb2.BASE_MODEL_STATE_IMPORTING else model

    return await until(imported, timeout_s=TIMEOUT_S)


async def create(client: AsyncClient, job_id: str, *, adapter: str = ADAPTER, **settings: float) -> str:
    job = await client.training_jobs.create(
        TENANT,
        adapter=adapter,
        base_model=MODEL,
        dataset_revision=DATASET,
        config=training_job_pb2.TrainingConfig(**CONFIG | settings),
        training_job_id=job_id,
    )
    return job.name


async def losses(client: AsyncClient, job: str) -> dict[int, tuple[float, float | None]]:
    """Loss and validation loss by step; a step that was done twice must have reported the same."""
    found: dict[int, tuple[float, float | None]] = {}
    async for event in client.training_jobs.watch(job):
        if event.HasField("progress"):
            progress = event.progress
            validation = progress.validation_loss if progress.HasField("validation_loss") else None
            assert found.setdefault(progress.step, (progress.loss, validation)) == (progress.loss, validation)
    return found


async def reach(client: AsyncClient, job: str, step: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        async for event in client.training_jobs.watch(job):
            if event.HasField("progress") and event.progress.step >= step:
                return
    raise AssertionError(f"{job} ended before step {step}")


async def test_a_model_is_imported_an_adapter_trained_and_peft_loads_it(
    trainer: Installation, base_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    async with trainer.client() as client:
        model = await client.base_models.get(MODEL)
        assert model.state == base_model_pb2.BASE_MODEL_STATE_READY
        assert (model.context_window_tokens, model.architecture) == (512, "LlamaForCausalLM")
        job = await create(client, "first", epoch_count=2)
        done = await client.training_jobs.wait(job, timeout_s=TIMEOUT_S)
        assert done.adapter_revision == f"{ADAPTER}/revisions/r1"
        assert done.progress.step == done.progress.total_steps == 6
        revision = await client.adapters.get_revision(done.adapter_revision)
        assert (revision.base_model, revision.training_job, revision.rank) == (MODEL, job, 4)
        second = await client.training_jobs.wait(await create(client, "second", epoch_count=2), timeout_s=TIMEOUT_S)
        assert second.adapter_revision == f"{ADAPTER}/revisions/r2"
        names = [item.name async for item in client.adapters.list_revisions(ADAPTER)]
        assert names == [f"{ADAPTER}/revisions/r2", f"{ADAPTER}/revisions/r1"]
        first_files = adapter_files(trainer.blobs, revision.sha256)
        again = await client.adapters.get_revision(second.adapter_revision)
        weights = "adapter_model.safetensors"
        assert adapter_files(trainer.blobs, again.sha256)[weights] == first_files[weights]  # same data, seed, settings
    assert set(first_files) == {weights, "adapter_config.json", "lineage.json", "README.md", "reference.json"}
    folder = tmp_path / "adapter"
    checkout(trainer.blobs, revision.sha256, folder)
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["dataset"]["sha256"] == "d" * 64
    assert lineage["base_model"]["sha256"] == model.sha256
    reference = json.loads((folder / "reference.json").read_text())["rows"][0]
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, folder)
    token_ids = torch.tensor([reference["prompt_ids"] + reference["completion_ids"]])
    with torch.no_grad():
        logprobs = torch.log_softmax(tuned(token_ids).logits[0, len(reference["prompt_ids"]) - 1 : -1], dim=-1)
    got = logprobs.gather(1, torch.tensor(reference["completion_ids"])[:, None])[:, 0].tolist()
    assert got == pytest.approx(reference["tuned_logprobs"], abs=1e-3)
    assert not list((trainer.home / "trainer/checkpoints").rglob("*.safetensors"))


async def test_a_killed_worker_and_a_killed_api_leave_the_same_loss_curve(trainer: Installation) -> None:
    settings = {"epoch_count": 40, "checkpoint_interval_steps": 7, "validation_interval_steps": 10}
    async with trainer.client() as client:
        whole = await create(client, "whole", adapter=f"{ADAPTER}-a", **settings)
        await client.training_jobs.wait(whole, timeout_s=TIMEOUT_S)
        expected = await losses(client, whole)
        assert sorted(expected) == list(range(1, 121))

        broken = await create(client, "broken", adapter=f"{ADAPTER}-b", **settings)
        await reach(client, broken, 10)
        await trainer.kill_worker()
        await reach(client, broken, 20)
    trainer.kill()
    await trainer_kills_the_orphan(trainer)
    trainer.start()
    await trainer.ready()
    async with trainer.client() as client:
        done = await client.training_jobs.wait(broken, timeout_s=TIMEOUT_S)
        assert done.attempt_count >= 3
        assert await losses(client, broken) == expected
        messages = [e.message async for e in client.training_jobs.watch(broken) if e.HasField("message")]
        assert any(text.startswith("resumed after step") for text in messages)
        one = await client.adapters.get_revision(f"{ADAPTER}-a/revisions/r1")
        other = await client.adapters.get_revision(done.adapter_revision)
        weights = "adapter_model.safetensors"
        assert adapter_files(trainer.blobs, one.sha256)[weights] == adapter_files(trainer.blobs, other.sha256)[weights]


async def trainer_kills_the_orphan(trainer: Installation) -> None:
    """The worker outlives its API process; kill it as well, as a machine that loses power does."""
    if trainer.worker_pids():
        await trainer.kill_worker()


async def test_cancel_ends_a_run_within_seconds_and_makes_no_revision(trainer: Installation) -> None:
    async with trainer.client() as client:
        job = await create(client, "long", adapter=f"{ADAPTER}-c", epoch_count=1000)
        await reach(client, job, 3)
        asked = time.monotonic()
        await client.training_jobs.cancel(job)
        with pytest.raises(client_errors.JobCancelledError):
            await client.training_jobs.wait(job, timeout_s=TIMEOUT_S)
        assert time.monotonic() - asked < 10
        assert [item async for item in client.adapters.list_revisions(f"{ADAPTER}-c")] == []


async def test_bad_input_fails_by_name_and_makes_nothing(
    trainer: Installation, base_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    async with trainer.client() as client:
        await client.base_models.import_model("empty", path=empty)
        failed = await wait_for_model(client, "baseModels/empty")
        assert failed.state == base_model_pb2.BASE_MODEL_STATE_FAILED
        assert "safetensors" in failed.error.message
        await client.base_models.import_model("empty", path=base_folder)  # a failed name may be used again
        assert (await wait_for_model(client, "baseModels/empty")).state == base_model_pb2.BASE_MODEL_STATE_READY

        job = await client.training_jobs.create(
            TENANT, adapter=ADAPTER, base_model=MODEL, dataset_revision=DATASET.replace("toys", "long")
        )
        with pytest.raises(luthier.errors.JobFailedError, match="train-1") as caught:
            await client.training_jobs.wait(job.name, timeout_s=TIMEOUT_S)
        assert "512 tokens" in str(caught.value)
        with pytest.raises(luthier.errors.NotFoundError):
            await client.training_jobs.create(
                TENANT, adapter=ADAPTER, base_model=MODEL, dataset_revision=DATASET.replace("r1", "r9")
            )


async def test_an_adapter_stays_with_its_base_model(trainer: Installation, tmp_path: pathlib.Path) -> None:
    other = write_base_model(tmp_path / "other", seed=1)
    async with trainer.client() as client:
        await client.training_jobs.wait(
            await create(client, "short", adapter=f"{ADAPTER}-d", max_steps=1), timeout_s=TIMEOUT_S
        )
        await client.base_models.import_model("other", path=other)
        await wait_for_model(client, "baseModels/other")
        with pytest.raises(luthier.errors.FailedPreconditionError) as caught:
            await client.training_jobs.create(
                TENANT, adapter=f"{ADAPTER}-d", base_model="baseModels/other", dataset_revision=DATASET
            )
        assert caught.value.reason == "ADAPTER_BASE_MISMATCH"


async def test_an_exported_adapter_comes_back_as_it_was(
    trainer: Installation, base_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    exported, adapter = tmp_path / "exported", f"{ADAPTER}-e"
    async with trainer.client() as client:
        job = await create(client, "taken-away", adapter=adapter, max_steps=2)
        trained = await client.training_jobs.wait(job, timeout_s=TIMEOUT_S)
        revision = await client.adapters.export(trained.adapter_revision, exported)
        created = await client.adapter_imports.create(adapter, exported, base_model=MODEL)
        steps = [event.message async for event in client.adapter_imports.watch(created.name) if event.message]
        done = await client.adapter_imports.get(created.name)
        back = await client.adapters.get_revision(done.adapter_revision)
    assert steps[0] == "checking the configuration"
    assert steps[-1] == "storing the revision"
    assert (done.adapter_revision, back.adapter_import) == (f"{adapter}/revisions/r2", created.name)
    assert back.source_sha256 == revision.sha256  # the lineage leads to the digest of what was exported
    before, after = adapter_files(trainer.blobs, revision.sha256), adapter_files(trainer.blobs, back.sha256)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert before[file] == after[file]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), exported)
    assert tuned.peft_config["default"].r == 4


async def test_a_model_is_imported_from_the_hub_that_the_operator_chose(trainer: Installation, hub: SmallHub) -> None:
    async with trainer.client() as client:
        await client.base_models.import_model("fetched", hub=hub.repository)
        model = await client.base_models.wait("baseModels/fetched", timeout_s=TIMEOUT_S)
        assert (model.source, model.hub_commit) == ("hub:acme/tiny@main", COMMIT)
        assert model.sha256 == (await client.base_models.get(MODEL)).sha256
    assert f"Bearer {hub.token}" in hub.tokens
    logs = [path.read_text() for path in trainer.home.rglob("*.log")]
    assert logs
    assert not any(hub.token in text for text in logs)
