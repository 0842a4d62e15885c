"""The whole installation with the real engine, on a tiny model; every process is killed on the way."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from luthier import AsyncClient
from luthier.curation.v1 import dataset_pb2
from luthier.evaluator.v1 import evaluation_pb2, gate_pb2
from luthier.services import SERVICES
from luthier.trainer.v1 import training_job_pb2
from support.house import House
from support.tiny_model import write_base_model

pytestmark = pytest.mark.e2e

TENANT = "tenants/acme"
MODEL = "baseModels/tiny"
DATASET = f"{TENANT}/datasets/toy"
DEPLOYMENT = f"{TENANT}/deployments/toy"
TOPICS = (
    "rivers",
    "engines",
    "invoices",
    "stars",
    "cheese",
    "bridges",
    "clocks",
    "birds",
    "maps",
    "wool",
    "salt",
    "ink",
)
RECIPE = dataset_pb2.CurationRecipe(
    stages=[
        dataset_pb2.CurationStage(stage="clean"),
        dataset_pb2.CurationStage(stage="exact_duplicates"),
        dataset_pb2.CurationStage(stage="pii"),
        dataset_pb2.CurationStage(
            stage="split", settings={"validation_fraction": 0.2, "holdout_fraction": 0.25, "seed": 1}
        ),
    ]
)
CONFIG = training_job_pb2.TrainingConfig(
    rank=4,
    learning_rate=0.005,
    batch_size=8,
    epoch_count=40,
    validation_interval_steps=20,
    checkpoint_interval_steps=5,
    early_stopping_patience=0,
    seed=3,
)
EVALUATION = evaluation_pb2.EvaluationConfig(max_answer_tokens=8, shot_count=1, resample_count=200, concurrency=2)


def rows() -> Iterator[dict[str, Any]]:
    for topic in TOPICS:
        for number in range(8):
            answer = f'{{"summary": "{topic} number {number}", "module": "{topic[0]}"}}'
            turns = [
                {"role": "user", "content": f"Tell me of {topic}, {number}."},
                {"role": "assistant", "content": answer},
            ]
            yield {"id": f"{topic}-{number}", "group": topic, "messages": turns}


@pytest.fixture
def house(tmp_path: pathlib.Path) -> Iterator[House]:
    models = tmp_path / "models"
    write_base_model(models / "tiny")
    made = House(tmp_path / "home", models)
    made.installation.up()
    try:
        yield made
    finally:
        made.installation.down()


async def losses(client: AsyncClient, job: str) -> dict[int, tuple[float, float]]:
    """Loss and validation loss by step; a step that was done twice counts once, as it was done last."""
    found = {}
    async for event in client.training_jobs.watch(job):
        if event.WhichOneof("event") == "progress":
            found[event.progress.step] = (event.progress.loss, event.progress.validation_loss)
    return found


async def train(client: AsyncClient, revision: str, adapter: str) -> str:
    job = await client.training_jobs.create(
        TENANT, adapter=f"{TENANT}/adapters/{adapter}", base_model=MODEL, dataset_revision=revision, config=CONFIG
    )
    return job.name


async def reach_step(client: AsyncClient, job: str, step: int) -> None:
    async for event in client.training_jobs.watch(job):
        if event.WhichOneof("event") == "progress" and event.progress.step >= step:
            return
    raise AssertionError(f"{job} ended before step {step}")


async def reach_answers(client: AsyncClient, evaluation: str, count: int) -> None:
    async for event in client.evaluations.watch(evaluation):
        if event.WhichOneof("event") == "progress" and event.progress.done_count >= count:
            return
    raise AssertionError(f"{evaluation} ended before {count} answers")


async def answer(client: AsyncClient, target: str) -> str:
    return (await client.inference.chat(target, "Tell me of rivers, 3.", max_tokens=8, timeout_s=240)).text


async def test_the_whole_loop_loses_nothing_when_every_process_is_killed(house: House) -> None:
    async with house.client() as client:
        await client.base_models.import_model("tiny", path=house.environment["LUTHIER_TRAINER_IMPORT_ROOTS"] + "/tiny")
        await client.base_models.wait(MODEL)
        await client.datasets.import_rows(DATASET, rows())
        dataset = await client.datasets.wait_revision((await client.datasets.curate(DATASET, recipe=RECIPE)).name)
        interrupted = await train(client, dataset.name, "interrupted")
        await reach_step(client, interrupted, 12)
    assert await asyncio.to_thread(house.kill) >= len(SERVICES) + 1
    await asyncio.to_thread(house.installation.up)

    async with house.client() as client:
        assert (await client.datasets.get_revision(dataset.name)).sha256 == dataset.sha256
        job = await client.training_jobs.wait(interrupted)
        assert job.attempt_count == 2
        curve = await losses(client, interrupted)
        undisturbed = await train(client, dataset.name, "undisturbed")
        twin = await client.training_jobs.wait(undisturbed)
        assert curve == await losses(client, undisturbed)
        weights = [(await client.adapters.get_revision(j.adapter_revision)).validation_loss for j in (job, twin)]
        assert weights[0] == weights[1]

        await client.engine.start(MODEL)
        await client.engine.wait_ready(timeout_s=300)
        await client.deployments.deploy(DEPLOYMENT, adapter_revision=job.adapter_revision)
        before = {target: await answer(client, target) for target in (DEPLOYMENT, MODEL)}
        assert before[DEPLOYMENT] != before[MODEL]
        evaluation = await client.evaluations.create(TENANT, adapter_revision=job.adapter_revision, config=EVALUATION)
        await reach_answers(client, evaluation.name, 5)
    assert await asyncio.to_thread(house.kill) >= len(SERVICES) + 1
    await asyncio.to_thread(house.installation.up)

    async with house.client() as client:
        assert {target: await answer(client, target) for target in (DEPLOYMENT, MODEL)} == before
        finished = await client.evaluations.wait(evaluation.name)
        assert {arm.failed_row_count for arm in finished.arms} == {0}
        assert len(finished.arms) == 5
        assert b"<svg" in await client.evaluations.read_report(evaluation.name)
        condition = gate_pb2.GateCondition(
            metric="rouge_l", arm=evaluation_pb2.ARM_ADAPTER, reference=evaluation_pb2.ARM_BASE
        )
        decision = await client.gates.run(evaluation.name, policy=gate_pb2.GatePolicy(conditions=[condition]))
        assert decision.outcome != gate_pb2.GATE_OUTCOME_UNSPECIFIED
