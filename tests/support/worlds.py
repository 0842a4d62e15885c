"""The four services with something in them: real servers over SQLite, no workers, a fake engine for inference."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pathlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import luthierd.curation.build
import luthierd.evaluator.build
import luthierd.inference.build
import luthierd.trainer.build
from luthier.curation.v1 import dataset_service_pb2 as curation_api
from luthier.curation.v1.dataset_service_pb2_grpc import DatasetServiceStub
from luthier.evaluator.v1 import evaluation_service_pb2 as evaluation_api
from luthier.evaluator.v1 import gate_pb2
from luthier.evaluator.v1 import gate_service_pb2 as gate_api
from luthier.evaluator.v1.gate_service_pb2_grpc import GateServiceStub
from luthier.inference.v1 import inference_service_pb2
from luthier.trainer.v1 import adapter_import_service_pb2 as import_api
from luthier.trainer.v1 import base_model_service_pb2 as model_api
from luthier.trainer.v1 import training_job_pb2
from luthier.trainer.v1 import training_job_service_pb2 as job_api
from luthier.trainer.v1.adapter_import_service_pb2_grpc import AdapterImportServiceStub
from luthier.trainer.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from luthier.trainer.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from luthierd.curation.config import CurationConfig
from luthierd.curation.worker import work as curate
from luthierd.inference.deployments.store import SqlStore
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.jobs.worker import run_job
from luthierd.storage.database import Database
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import DatasetSplits
from luthierd.trainer.store import add_adapter_revision, set_base_model_info

from support.evaluator_service import ADAPTER, served
from support.fuzzing import World
from support.inference_calls import CONFIG, R1, R2, SUPPORT, deploy
from support.inference_fakes import BASE
from support.inference_parts import make_parts
from support.serving import VERIFIER, bearer, running

ACME = "tenants/acme"
SUMS = f"{ACME}/datasets/sums"
EMPTY_SHA256 = hashlib.sha256(b"{}").hexdigest()
ROWS = "".join(f'{{"prompt": "{number} + 1?", "completion": "{number + 1}"}}\n' for number in range(40)).encode()


async def _database(folder: pathlib.Path, service: str, versions: pathlib.Path) -> Database:
    made = Database(f"sqlite+aiosqlite:///{folder / service}.db", schema=service)
    await made.migrate(versions)
    return made


@contextlib.asynccontextmanager
async def curation(folder: pathlib.Path) -> AsyncIterator[World]:
    """A dataset with one READY revision."""
    config = CurationConfig(home=folder, worker_count=0, max_row_bytes=200_000, max_row_count=50)
    database = await _database(folder, "curation", luthierd.curation.build.VERSIONS)
    service = await luthierd.curation.build.build(config, database=database, verifier=VERIFIER)
    async with running(service, config) as channel:
        stub = DatasetServiceStub(channel)
        header = curation_api.ImportDatasetHeader(parent=ACME, dataset_id="sums")
        parts = [curation_api.ImportDatasetRequest(header=header), curation_api.ImportDatasetRequest(data=ROWS)]
        await stub.ImportDataset(iter(parts), metadata=bearer())
        recipe = {"stages": [{"stage": "clean"}, {"stage": "split"}]}
        request = curation_api.CurateDatasetRequest(name=SUMS, recipe=recipe)
        revision = (await stub.CurateDataset(request, metadata=bearer())).revision.name
        queue = JobQueue(database, lease_s=config.lease_s)
        await run_job(queue, revision, functools.partial(curate, config=config, _database=database))
        names = {"curation.luthier.dev/Dataset": SUMS, "curation.luthier.dev/DatasetRevision": revision}
        yield World(
            channel,
            {**names, "curation.luthier.dev/DatasetRevision/": SUMS},
            {"ImportDataset": parts[0], "CurateDataset": request},
        )


class _Datasets:
    async def splits(self, name: str) -> DatasetSplits:
        return DatasetSplits(name=name, sha256="d" * 64, train_sha256="e" * 64, validation_sha256="f" * 64)


@contextlib.asynccontextmanager
async def trainer(folder: pathlib.Path) -> AsyncIterator[World]:
    """A base model, a job that has ended, and its adapter revision."""
    config = TrainerConfig(home=folder, worker_count=0, import_roots=str(folder))
    database = await _database(folder, "trainer", luthierd.trainer.build.VERSIONS)
    service = await luthierd.trainer.build.build(config, database=database, verifier=VERIFIER, datasets=_Datasets())
    queue, adapter = JobQueue(database, lease_s=30.0), f"{ACME}/adapters/support"
    async with running(service, config) as channel:
        (folder / "tiny").mkdir()
        import_request = model_api.ImportBaseModelRequest(base_model_id="tiny", path=str(folder / "tiny"))
        await BaseModelServiceStub(channel).ImportBaseModel(import_request, metadata=bearer())
        info = BaseModelInfo(
            sha256="a" * 64,
            tokenizer_sha256="b" * 64,
            chat_template_sha256="c" * 64,
            architecture="LlamaForCausalLM",
            parameter_count=5,
            context_window_tokens=512,
            size_bytes=9,
        )
        await _finish(queue, await _claimable(queue), lambda tx: set_base_model_info(tx, BASE.name, info))
        job = training_job_pb2.TrainingJob(
            adapter=adapter, base_model=BASE.name, dataset_revision=f"{SUMS}/revisions/r1"
        )
        request = job_api.CreateTrainingJobRequest(parent=ACME, training_job=job)
        made = await TrainingJobServiceStub(channel).CreateTrainingJob(request, metadata=bearer())
        content = {
            "size_bytes": 3,
            "base_model": BASE.name,
            "base_model_sha256": info.sha256,
            "dataset_revision": f"{SUMS}/revisions/r1",
            "dataset_sha256": "d" * 64,
            "rank": 16,
            "target_modules": ["q_proj"],
            "validation_loss": None,
        }

        def add(tx: Any) -> Any:
            return add_adapter_revision(
                tx, adapter, job=made.training_job.name, sha256="9" * 64, content=content, now=1.0
            )

        await _finish(queue, made.training_job.name, add)
        names = {
            "trainer.luthier.dev/BaseModel": BASE.name,
            "trainer.luthier.dev/TrainingJob": made.training_job.name,
            "trainer.luthier.dev/Adapter": adapter,
            "trainer.luthier.dev/AdapterRevision": f"{adapter}/revisions/r1",
            "trainer.luthier.dev/AdapterRevision/": adapter,
            "curation.luthier.dev/DatasetRevision": f"{SUMS}/revisions/r1",
        }
        write = import_api.WriteAdapterFileRequest(parent=ACME, sha256=EMPTY_SHA256, size_bytes=2, data=b"{}")
        await AdapterImportServiceStub(channel).WriteAdapterFile(write, metadata=bearer())
        create = import_api.CreateAdapterImportRequest(parent=ACME)
        create.adapter_import.adapter, create.adapter_import.base_model = adapter, BASE.name
        for path in ("adapter_config.json", "adapter_model.safetensors"):
            create.adapter_import.files.add(path=path, sha256=EMPTY_SHA256)
        imported = await AdapterImportServiceStub(channel).CreateAdapterImport(create, metadata=bearer())
        names["trainer.luthier.dev/AdapterImport"] = imported.adapter_import.name
        samples = {"CreateTrainingJob": request, "ImportBaseModel": import_request}
        yield World(channel, names, {**samples, "WriteAdapterFile": write, "CreateAdapterImport": create})


async def _claimable(queue: JobQueue) -> str:
    (name,) = await queue.claimable(1)
    return name


async def _finish(queue: JobQueue, name: str, write: Callable[[Any], Any]) -> None:
    """What a worker does at its end."""
    lease = await queue.claim(name)
    assert lease
    async with queue.finishing(lease, JobState.SUCCEEDED, result={}) as tx:
        await write(tx)


@contextlib.asynccontextmanager
async def evaluator(folder: pathlib.Path) -> AsyncIterator[World]:
    """A SUCCEEDED evaluation over fake peers, and a gate policy."""
    database = await _database(folder, "evaluator", luthierd.evaluator.build.VERSIONS)
    async with served(database, folder) as server:
        evaluation = await server.evaluate()
        conditions = [gate_pb2.GateCondition(metric="exact_match", at_least=0.1)]
        policy = gate_api.CreateGatePolicyRequest(
            parent=ACME, gate_policy_id="strict", gate_policy=gate_pb2.GatePolicy(conditions=conditions)
        )
        stub = GateServiceStub(server.channel)
        await stub.CreateGatePolicy(policy, metadata=bearer())
        names = {
            "evaluator.luthier.dev/Evaluation": evaluation,
            "evaluator.luthier.dev/GatePolicy": f"{ACME}/gatePolicies/strict",
            "trainer.luthier.dev/AdapterRevision": ADAPTER,
            "trainer.luthier.dev/BaseModel": BASE.name,
            "curation.luthier.dev/DatasetRevision": f"{ACME}/datasets/docs/revisions/r1",
            "evaluator.luthier.dev/Holdout": f"{ACME}/datasets/docs/revisions/r1/holdout",
        }
        create = evaluation_api.CreateEvaluationRequest(parent=ACME)
        create.evaluation.adapter_revision = ADAPTER
        create.evaluation.config.resample_count = 200
        self_test = gate_api.SelfTestGateRequest(evaluation=evaluation, experiment_count=20)
        samples = {"CreateEvaluation": create, "CreateGatePolicy": policy, "SelfTestGate": self_test}
        yield World(server.channel, names, samples)


@contextlib.asynccontextmanager
async def inference(folder: pathlib.Path) -> AsyncIterator[World]:
    """A deployment on a fake engine."""
    store = SqlStore(await _database(folder, "inference", luthierd.inference.build.VERSIONS))
    parts = await make_parts(R1, R2, store=store, reader_limit_s=30.0)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        names = {
            "inference.luthier.dev/Deployment": SUPPORT,
            "inference.luthier.dev/CapturePolicy": f"{ACME}/capturePolicy",
            "inference.luthier.dev/Quota": f"{ACME}/quota",
            "trainer.luthier.dev/AdapterRevision": R2.name,
            "trainer.luthier.dev/BaseModel": BASE.name,
        }
        target = inference_service_pb2.Target(deployment=SUPPORT)
        yield World(
            channel,
            names,
            {
                "Generate": inference_service_pb2.GenerateRequest(target=target, prompt="x"),
                "GenerateStream": inference_service_pb2.GenerateStreamRequest(target=target, prompt="x"),
                "Score": inference_service_pb2.ScoreRequest(target=target, prompt_text="x", completion_text="y"),
            },
        )


WORLDS: dict[str, Callable[[pathlib.Path], AbstractAsyncContextManager[World]]] = {
    "curation": curation,
    "trainer": trainer,
    "evaluator": evaluator,
    "inference": inference,
}
