"""The whole loop on PostgreSQL and S3: what several machines share."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator

import pytest
from luthier import AsyncClient
from luthier.curation.v1 import dataset_pb2
from luthier.errors import UnavailableError
from luthier.evaluator.v1 import evaluation_pb2
from luthier.trainer.v1 import training_job_pb2
from support.databases import Cluster
from support.house import House
from support.object_store import ObjectStore
from support.tiny_model import write_base_model
from support.toy_rows import toy_rows

pytestmark = pytest.mark.e2e

TENANT, MODEL = "tenants/acme", "baseModels/tiny"
DATASET, ADAPTER, DEPLOYMENT = f"{TENANT}/datasets/toy", f"{TENANT}/adapters/toy", f"{TENANT}/deployments/toy"
TIMEOUT_S = 240.0
RECIPE = dataset_pb2.CurationRecipe(
    stages=[
        dataset_pb2.CurationStage(stage="exact_duplicates"),
        dataset_pb2.CurationStage(stage="split", settings={"validation_fraction": 0.2, "holdout_fraction": 0.4}),
    ]
)
TRAINING = training_job_pb2.TrainingConfig(
    rank=4, learning_rate=0.005, batch_size=8, epoch_count=4, checkpoint_interval_steps=2, early_stopping_patience=0
)
EVALUATION = evaluation_pb2.EvaluationConfig(
    arms=[evaluation_pb2.ARM_BASE, evaluation_pb2.ARM_ADAPTER],
    shot_count=0,
    max_answer_tokens=4,
    row_limit=8,
    resample_count=100,
)


@pytest.fixture
def house(tmp_path: pathlib.Path, postgres: Cluster, object_store: ObjectStore) -> Iterator[House]:
    models = tmp_path / "models"
    write_base_model(models / "tiny")
    made = House(
        tmp_path / "home",
        models,
        LUTHIER_DATABASE_URL=postgres.make_database("loop"),
        LUTHIER_BLOBS_URL=object_store.url,
        LUTHIER_INFERENCE_ENGINE="transformers",
    )
    made.installation.up()
    try:
        yield made
    finally:
        made.installation.down()


async def curated(house: House, client: AsyncClient) -> dataset_pb2.DatasetRevision:
    await client.base_models.import_model("tiny", path=house.environment["LUTHIER_TRAINER_IMPORT_ROOTS"] + "/tiny")
    await client.base_models.wait(MODEL)
    await client.datasets.import_rows(DATASET, toy_rows(60))
    begun = await client.datasets.curate(DATASET, recipe=RECIPE)
    return await client.datasets.wait_revision(begun.name, timeout_s=TIMEOUT_S)


async def lose_both(client: AsyncClient, job: str, postgres: Cluster, object_store: ObjectStore) -> None:
    """Stops database and blob store while the job runs, and starts them when callers have been told."""
    async for event in client.training_jobs.watch(job):
        if event.WhichOneof("event") == "progress":
            break
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(object_store.stop)
    try:
        with pytest.raises(UnavailableError) as caught:
            await client.datasets.get(DATASET, timeout_s=4)
        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        await asyncio.to_thread(postgres.start)
        with pytest.raises(UnavailableError) as caught:
            await client.datasets.import_rows(f"{TENANT}/datasets/other", toy_rows(5), timeout_s=6)
        assert caught.value.reason == "BLOB_STORE_UNAVAILABLE"
    finally:
        await asyncio.to_thread(object_store.start)


async def test_the_loop_runs_on_postgresql_and_s3_and_keeps_nothing_at_home(
    house: House, postgres: Cluster, object_store: ObjectStore, tmp_path: pathlib.Path
) -> None:
    async with house.client() as client:
        dataset = await curated(house, client)
        split = b"".join([piece async for piece in client.datasets.read_split(dataset.name, dataset_pb2.SPLIT_TRAIN)])
        assert len(split.splitlines()) == dataset.splits[0].row_count > 0
        job = await client.training_jobs.create(
            TENANT, adapter=ADAPTER, base_model=MODEL, dataset_revision=dataset.name, config=TRAINING
        )
        await lose_both(client, job.name, postgres, object_store)
        trained = await client.training_jobs.wait(job.name, timeout_s=TIMEOUT_S)
        assert trained.attempt_count == 1  # though database and blob store were away meanwhile
        await client.engine.start(MODEL)
        await client.engine.wait_ready(timeout_s=TIMEOUT_S)
        await client.deployments.deploy(DEPLOYMENT, adapter_revision=trained.adapter_revision, timeout_s=TIMEOUT_S)
        answers = {
            target: (await client.inference.chat(target, "train 3?", max_tokens=8, timeout_s=TIMEOUT_S)).text
            for target in (DEPLOYMENT, MODEL)
        }
        assert answers[DEPLOYMENT] != answers[MODEL]
        evaluation = await client.evaluations.create(
            TENANT, adapter_revision=trained.adapter_revision, config=EVALUATION
        )
        finished = await client.evaluations.wait(evaluation.name, timeout_s=TIMEOUT_S)
        assert {arm.failed_row_count for arm in finished.arms} == {0}
        assert b"<html" in await client.evaluations.read_report(evaluation.name)
    assert not list((tmp_path / "home").glob("*.db"))
    assert not (tmp_path / "home/blobs").exists()
