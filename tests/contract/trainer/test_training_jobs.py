"""The three services of `luthier.trainer.v1` over real sockets; no worker runs, so that jobs stay QUEUED."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from luthier.trainer.v1 import adapter_service_pb2 as adapter_api
from luthier.trainer.v1 import base_model_pb2, training_job_pb2
from luthier.trainer.v1 import base_model_service_pb2 as model_api
from luthier.trainer.v1 import training_job_service_pb2 as job_api
from luthier.trainer.v1.adapter_service_pb2_grpc import AdapterServiceStub
from luthier.trainer.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from luthier.trainer.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.storage.database import Database
from luthierd.trainer.build import build
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import DatasetNotReadyError, DatasetSplits
from luthierd.trainer.store import add_adapter_revision, set_base_model_info
from support.serving import VERIFIER, bearer, details, error_info, running

ACME, MODEL, ADAPTER = "tenants/acme", "baseModels/tiny", "tenants/acme/adapters/support"
DATASET = "tenants/acme/datasets/toys/revisions/r1"
INFO = BaseModelInfo(
    sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    chat_template_sha256="c" * 64,
    architecture="LlamaForCausalLM",
    parameter_count=5,
    context_window_tokens=512,
    size_bytes=9,
)


class Datasets:
    """Knows `DATASET`; revision r2 is not ready."""

    async def splits(self, name: str) -> DatasetSplits:
        if name != DATASET:
            raise DatasetNotReadyError(f"{name} is CURATING", metadata={"dataset_revision": name, "state": "CURATING"})
        return DatasetSplits(name=name, sha256="d" * 64, train_sha256="e" * 64, validation_sha256="f" * 64)


class Trainer:
    """The stubs of a served trainer, and its store for what workers would write."""

    def __init__(self, channel: grpc.aio.Channel, database: Database, queue: JobQueue) -> None:
        self.models, self.jobs = BaseModelServiceStub(channel), TrainingJobServiceStub(channel)
        self.adapters, self.database, self.queue = AdapterServiceStub(channel), database, queue

    async def import_model(self, folder: pathlib.Path, name: str = "tiny", **more: str) -> base_model_pb2.BaseModel:
        request = model_api.ImportBaseModelRequest(base_model_id=name, path=str(folder), **more)
        return (await self.models.ImportBaseModel(request, metadata=bearer(), timeout=5)).base_model

    async def finish_import(self, name: str = MODEL) -> None:
        """What the import worker does."""
        (job,) = [found for found in await self.queue.claimable(5) if found.startswith(name)]
        lease = await self.queue.claim(job)
        assert lease
        async with self.queue.finishing(lease, JobState.SUCCEEDED) as tx:
            await set_base_model_info(tx, name, INFO)

    async def create(self, **fields: Any) -> training_job_pb2.TrainingJob:
        answer = await self.jobs.CreateTrainingJob(creation(**fields), metadata=bearer(), timeout=5)
        return answer.training_job

    async def finish_training(self, job: str) -> str:
        """What the training worker does."""
        lease = await self.queue.claim(job)
        assert lease
        result: dict[str, Any] = {}
        content = {
            "size_bytes": 3,
            "base_model": MODEL,
            "base_model_sha256": INFO.sha256,
            "dataset_revision": DATASET,
            "dataset_sha256": "d" * 64,
            "rank": 16,
            "target_modules": ["q_proj"],
            "validation_loss": None,
        }
        async with self.queue.finishing(lease, JobState.SUCCEEDED, result=result) as tx:
            result["adapter_revision"] = await add_adapter_revision(
                tx, ADAPTER, job=job, sha256="9" * 64, content=content, now=1.0
            )
        return str(result["adapter_revision"])


def creation(
    *, job_id: str = "", request_id: str = "", parent: str = ACME, **fields: Any
) -> job_api.CreateTrainingJobRequest:
    values = {"adapter": ADAPTER, "base_model": MODEL, "dataset_revision": DATASET} | fields
    return job_api.CreateTrainingJobRequest(
        parent=parent,
        training_job=training_job_pb2.TrainingJob(**values),
        training_job_id=job_id,
        request_id=request_id,
    )


@pytest.fixture
async def trainer(tmp_path: pathlib.Path, database_url: str, schema: str) -> AsyncIterator[Trainer]:
    config = TrainerConfig(home=tmp_path, worker_count=0, import_roots=str(tmp_path))
    database = Database(database_url, schema=schema)
    service = await build(config, database=database, verifier=VERIFIER, datasets=Datasets())
    async with running(service, config) as channel:
        yield Trainer(channel, database, JobQueue(database, lease_s=30.0))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "tiny"
    made.mkdir()
    return made


@pytest.fixture
async def ready(trainer: Trainer, folder: pathlib.Path) -> Trainer:
    await trainer.import_model(folder)
    await trainer.finish_import()
    return trainer


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_import_is_acknowledged_at_once_and_described_when_it_is_ready(
    trainer: Trainer, folder: pathlib.Path
) -> None:
    model = await trainer.import_model(folder)
    assert (model.name, model.state, model.source) == (MODEL, base_model_pb2.BASE_MODEL_STATE_IMPORTING, "path:tiny")
    await trainer.finish_import()
    request = model_api.GetBaseModelRequest(name=MODEL)
    model = (await trainer.models.GetBaseModel(request, metadata=bearer("other"), timeout=5)).base_model
    assert (model.state, model.sha256) == (base_model_pb2.BASE_MODEL_STATE_READY, "a" * 64)
    assert model.HasField("end_time")
    assert await trainer.import_model(folder) == model


async def test_a_name_holds_one_model(trainer: Trainer, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    await trainer.import_model(folder)
    (tmp_path / "other").mkdir()
    error = await refusal(trainer.import_model(tmp_path / "other"))
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.ALREADY_EXISTS, "BASE_MODEL_EXISTS")


async def test_a_failed_name_can_be_imported_again(
    trainer: Trainer, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    await trainer.import_model(folder)
    (job,) = await trainer.queue.claimable(5)
    lease = await trainer.queue.claim(job)
    assert lease
    failure = {"code": "INVALID_ARGUMENT", "reason": "BASE_MODEL_INVALID", "message": "no weights", "metadata": {}}
    async with trainer.queue.finishing(lease, JobState.FAILED, error=failure):
        pass
    request = model_api.GetBaseModelRequest(name=MODEL)
    model = (await trainer.models.GetBaseModel(request, metadata=bearer(), timeout=5)).base_model
    assert model.state == base_model_pb2.BASE_MODEL_STATE_FAILED
    assert model.error.message == "no weights"
    (tmp_path / "other").mkdir()
    again = await trainer.import_model(tmp_path / "other")
    assert (again.state, again.source) == (base_model_pb2.BASE_MODEL_STATE_IMPORTING, "path:other")


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"name": "Tiny"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"folder": "none"}, grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_PATH_NOT_FOUND"),
        ({"folder": "/etc"}, grpc.StatusCode.PERMISSION_DENIED, "IMPORT_PATH_FORBIDDEN"),
    ],
)
async def test_a_bad_import_is_refused_by_name(
    change: dict[str, str], code: grpc.StatusCode, reason: str, trainer: Trainer, folder: pathlib.Path
) -> None:
    path = folder.parent / change.get("folder", "tiny")
    error = await refusal(trainer.import_model(path, change.get("name", "tiny")))
    assert (error.code(), error_info(error).reason) == (code, reason)


async def test_models_are_listed_in_pages_by_name(trainer: Trainer, folder: pathlib.Path) -> None:
    for name in ("b", "a", "c"):
        await trainer.import_model(folder, name)
    first = await trainer.models.ListBaseModels(
        model_api.ListBaseModelsRequest(page_size=2), metadata=bearer(), timeout=5
    )
    rest = await trainer.models.ListBaseModels(
        model_api.ListBaseModelsRequest(page_size=2, page_token=first.next_page_token), metadata=bearer(), timeout=5
    )
    names = [model.name for model in (*first.base_models, *rest.base_models)]
    assert names == ["baseModels/a", "baseModels/b", "baseModels/c"]
    assert rest.next_page_token == ""


async def test_a_job_is_queued_with_every_default_filled_in(ready: Trainer) -> None:
    job = await ready.create(job_id="first", config=training_job_pb2.TrainingConfig(rank=4, dropout=0.0))
    assert (job.name, job.state) == (f"{ACME}/trainingJobs/first", training_job_pb2.TRAINING_JOB_STATE_QUEUED)
    assert (job.config.rank, job.config.alpha, job.config.batch_size) == (4, 8.0, 8)
    assert job.config.max_seq_length == 512
    got = await ready.jobs.GetTrainingJob(job_api.GetTrainingJobRequest(name=job.name), metadata=bearer(), timeout=5)
    assert got.training_job == job
    adapters = await ready.adapters.ListAdapters(
        adapter_api.ListAdaptersRequest(parent=ACME), metadata=bearer(), timeout=5
    )
    assert [(adapter.name, adapter.latest_revision) for adapter in adapters.adapters] == [(ADAPTER, "")]


async def test_the_same_request_id_makes_one_job(ready: Trainer) -> None:
    request_id = str(uuid.uuid4())
    first = await ready.create(request_id=request_id)
    assert await ready.create(request_id=request_id) == first
    assert (await ready.create()).name != first.name


async def test_job_ids_do_not_clash(ready: Trainer) -> None:
    await ready.create(job_id="first")
    error = await refusal(ready.create(job_id="first"))
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS")


async def test_wrong_settings_become_field_violations_and_queue_nothing(ready: Trainer) -> None:
    config = training_job_pb2.TrainingConfig(learning_rate=-1, micro_batch_size=3)
    error = await refusal(ready.create(config=config))
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TRAINING_CONFIG")
    assert len(details(error).details) == 2
    assert await ready.queue.claimable(5) == []


async def test_a_rank_that_no_engine_takes_is_refused_before_training(ready: Trainer) -> None:
    error = await refusal(ready.create(config=training_job_pb2.TrainingConfig(rank=33)))
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TRAINING_CONFIG")
    assert "training_job.config.rank" in str(details(error))
    assert await ready.queue.claimable(5) == []


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"base_model": "baseModels/none"}, grpc.StatusCode.NOT_FOUND, "BASE_MODEL_NOT_FOUND"),
        ({"base_model": "none"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"dataset_revision": DATASET[:-1] + "2"}, grpc.StatusCode.FAILED_PRECONDITION, "DATASET_REVISION_NOT_READY"),
        ({"adapter": "tenants/acme/adapters/B"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"adapter": "tenants/rival/adapters/b"}, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (
            {"dataset_revision": DATASET.replace("acme", "rival")},
            grpc.StatusCode.PERMISSION_DENIED,
            "PERMISSION_DENIED",
        ),
    ],
)
async def test_a_job_that_cannot_be_done_is_refused(
    fields: dict[str, str], code: grpc.StatusCode, reason: str, ready: Trainer
) -> None:
    error = await refusal(ready.create(**fields))
    assert (error.code(), error_info(error).reason) == (code, reason)


async def test_a_model_that_is_still_imported_cannot_be_trained_on(trainer: Trainer, folder: pathlib.Path) -> None:
    await trainer.import_model(folder)
    error = await refusal(trainer.create())
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BASE_MODEL_NOT_READY")


async def test_cancel_ends_a_queued_job_and_leaves_a_finished_one(ready: Trainer) -> None:
    job = await ready.create()
    request = job_api.CancelTrainingJobRequest(name=job.name)
    first = (await ready.jobs.CancelTrainingJob(request, metadata=bearer(), timeout=5)).training_job
    assert first.state == training_job_pb2.TRAINING_JOB_STATE_CANCELLED
    again = (await ready.jobs.CancelTrainingJob(request, metadata=bearer(), timeout=5)).training_job
    assert again == first


async def test_jobs_are_listed_newest_first_and_by_tenant(ready: Trainer) -> None:
    for name in ("one", "two"):
        await ready.create(job_id=name)
    answer = await ready.jobs.ListTrainingJobs(
        job_api.ListTrainingJobsRequest(parent=ACME), metadata=bearer(), timeout=5
    )
    assert [job.name.rpartition("/")[2] for job in answer.training_jobs] == ["two", "one"]
    other = await ready.jobs.ListTrainingJobs(
        job_api.ListTrainingJobsRequest(parent="tenants/rival"), metadata=bearer("rival"), timeout=5
    )
    assert list(other.training_jobs) == []


async def test_a_watch_tells_what_happened_and_ends_with_the_job(ready: Trainer) -> None:
    job = await ready.create()
    lease = await ready.queue.claim(job.name)
    assert lease
    progress = {
        "step": 1,
        "total_steps": 2,
        "loss": 0.5,
        "learning_rate": 0.1,
        "tokens_per_second": 10.0,
        "remaining_s": 1.5,
        "gradient_norm": 1.0,
        "validation_loss": 0.25,
    }
    await ready.queue.emit(lease, [("progress", progress), ("message", {"message": "stopped early"})])
    async with ready.queue.finishing(lease, JobState.FAILED, error=None):
        pass
    call = ready.jobs.WatchTrainingJob(job_api.WatchTrainingJobRequest(name=job.name), metadata=bearer(), timeout=10)
    events = [message.event async for message in call]
    assert [event.WhichOneof("event") for event in events] == ["state", "state", "progress", "message", "state"]
    assert events[2].progress.validation_loss == 0.25
    assert events[2].progress.remaining_duration.ToMilliseconds() == 1500
    request = job_api.WatchTrainingJobRequest(name=job.name, after_event_id=events[3].event_id)
    call = ready.jobs.WatchTrainingJob(request, metadata=bearer(), timeout=10)
    assert [message.event async for message in call] == events[4:]


async def test_a_finished_job_names_its_revision(ready: Trainer) -> None:
    for number in (1, 2):
        job = await ready.create(job_id=f"job{number}")
        name = await ready.finish_training(job.name)
        assert name == f"{ADAPTER}/revisions/r{number}"
        got = await ready.jobs.GetTrainingJob(
            job_api.GetTrainingJobRequest(name=job.name), metadata=bearer(), timeout=5
        )
        assert got.training_job.adapter_revision == name
    revision = (
        await ready.adapters.GetAdapterRevision(
            adapter_api.GetAdapterRevisionRequest(name=name), metadata=bearer(), timeout=5
        )
    ).revision
    assert (revision.base_model_sha256, list(revision.target_modules)) == (INFO.sha256, ["q_proj"])
    assert revision.validation_loss != revision.validation_loss  # NaN: there was no validation split
    page = await ready.adapters.ListAdapterRevisions(
        adapter_api.ListAdapterRevisionsRequest(parent=ADAPTER, page_size=1), metadata=bearer(), timeout=5
    )
    rest = await ready.adapters.ListAdapterRevisions(
        adapter_api.ListAdapterRevisionsRequest(parent=ADAPTER, page_size=1, page_token=page.next_page_token),
        metadata=bearer(),
        timeout=5,
    )
    assert [item.name[-2:] for item in (*page.revisions, *rest.revisions)] == ["r2", "r1"]


UNKNOWN: list[tuple[str, Callable[[Trainer], Any], str]] = [
    (
        "GetBaseModel",
        lambda t: t.models.GetBaseModel(
            model_api.GetBaseModelRequest(name="baseModels/none"), metadata=bearer(), timeout=5
        ),
        "BASE_MODEL_NOT_FOUND",
    ),
    (
        "GetTrainingJob",
        lambda t: t.jobs.GetTrainingJob(
            job_api.GetTrainingJobRequest(name=f"{ACME}/trainingJobs/none"), metadata=bearer(), timeout=5
        ),
        "JOB_NOT_FOUND",
    ),
    (
        "CancelTrainingJob",
        lambda t: t.jobs.CancelTrainingJob(
            job_api.CancelTrainingJobRequest(name=f"{ACME}/trainingJobs/none"), metadata=bearer(), timeout=5
        ),
        "JOB_NOT_FOUND",
    ),
    (
        "GetAdapterRevision",
        lambda t: t.adapters.GetAdapterRevision(
            adapter_api.GetAdapterRevisionRequest(name=f"{ADAPTER}/revisions/r1"), metadata=bearer(), timeout=5
        ),
        "ADAPTER_REVISION_NOT_FOUND",
    ),
    (
        "GetAdapterRevision of no number",
        lambda t: t.adapters.GetAdapterRevision(
            adapter_api.GetAdapterRevisionRequest(name=f"{ADAPTER}/revisions/r01"), metadata=bearer(), timeout=5
        ),
        "ADAPTER_REVISION_NOT_FOUND",
    ),
    (
        "ListAdapterRevisions",
        lambda t: t.adapters.ListAdapterRevisions(
            adapter_api.ListAdapterRevisionsRequest(parent=ADAPTER), metadata=bearer(), timeout=5
        ),
        "ADAPTER_NOT_FOUND",
    ),
]


@pytest.mark.parametrize(("call", "reason"), [case[1:] for case in UNKNOWN], ids=[case[0] for case in UNKNOWN])
async def test_an_unknown_name_is_named(call: Callable[[Trainer], Any], reason: str, trainer: Trainer) -> None:
    error = await refusal(call(trainer))
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.NOT_FOUND, reason)


async def test_another_tenants_job_is_refused_whether_it_exists_or_not(ready: Trainer) -> None:
    job = await ready.create(job_id="first")
    for name in (job.name, f"{ACME}/trainingJobs/none"):
        request = job_api.GetTrainingJobRequest(name=name)
        error = await refusal(ready.jobs.GetTrainingJob(request, metadata=bearer("rival"), timeout=5))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_call_without_token_or_scope_is_refused(trainer: Trainer, folder: pathlib.Path) -> None:
    error = await refusal(trainer.models.ListBaseModels(model_api.ListBaseModelsRequest(), timeout=5))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    request = model_api.ImportBaseModelRequest(base_model_id="tiny", path=str(folder))
    narrow = bearer(scopes=("trainer.read", "trainer.write"))
    error = await refusal(trainer.models.ImportBaseModel(request, metadata=narrow, timeout=5))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
