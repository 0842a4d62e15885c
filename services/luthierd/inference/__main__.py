"""The inference server: `python -m luthierd.inference`. Builds the parts and connects them."""

from __future__ import annotations

import pathlib
import time

from luthier import AsyncClient

from luthierd.inference.admission import Admission
from luthierd.inference.answers import Answers
from luthierd.inference.artifacts import Artifacts
from luthierd.inference.capture_store import SqlCaptureStore
from luthierd.inference.capturing import make_capturing
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments import Deployments
from luthierd.inference.engine.engines import chosen_engine
from luthierd.inference.engine_host import EngineHost
from luthierd.inference.fair_queue import FairQueue
from luthierd.inference.generations import Generations
from luthierd.inference.http_front import HttpFront
from luthierd.inference.http_server import HttpServer
from luthierd.inference.mirror import Mirror
from luthierd.inference.proof import prove
from luthierd.inference.quotas import Quotas
from luthierd.inference.replica_store import make_replicas
from luthierd.inference.service import FULL_NAMES, inference_service
from luthierd.inference.store import SqlStore
from luthierd.inference.trainer_catalog import TrainerCatalog
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.main import run
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Health, serve
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore


async def main(config: InferenceConfig) -> None:
    """Runs the server until it is told to stop."""
    verifier, issuer = TokenVerifier.from_file(config.verify_key), TokenIssuer.from_file(config.signing_key)
    database = Database(config.database_url_of("inference"), schema="inference")
    await database.migrate(pathlib.Path(__file__).parent / "versions")
    store, health = SqlStore(database), Health(FULL_NAMES)
    client = AsyncClient(endpoints_of(config))
    models = TrainerCatalog(client, issuer)
    blobs = BlobStore(config.blobs, cache=config.home / "inference/blobs")
    artifacts = Artifacts(blobs, config.home / "inference", max_adapter_bytes=config.max_adapter_bytes)
    engine = chosen_engine(config)
    replicas = make_replicas(database, store, config, health.set_serving)
    host = EngineHost(
        start=engine.start, files=artifacts, store=store, set_serving=(replicas or health).set_serving
    )  # fmt: skip
    generations = Generations(
        files=artifacts, prove=prove, proofs=store,
        max_loaded=config.max_loaded_adapters, max_unheld=config.max_unheld_adapters,
    )  # fmt: skip
    quotas = Quotas(store=store, defaults=config.default_limits)
    deployments = Deployments(
        store=replicas or store,
        catalog=models,
        generations=generations,
        host=host,
        check_adapters=quotas.check_adapters,
    )
    host.on_started, host.on_died = deployments.replay, generations.forget_all
    if replicas is not None:
        replicas.attach(host, deployments, generations)
    await deployments.read()
    capturing = make_capturing(
        SqlCaptureStore(database), blobs, response_retention_s=config.response_retention_s,
        capture_part_s=config.capture_part_s, capture_sweep_s=config.capture_sweep_s,
    )  # fmt: skip
    await capturing.policies.read()
    await quotas.read()
    queue = FairQueue(
        seat_count=config.max_batch, spare_count=config.spare_batch,
        slot_count=config.max_batch_adapters, patience=config.adapter_patience,
    )  # fmt: skip
    admission = Admission(
        queue=queue, quotas=quotas, max_in_flight=config.max_in_flight,
        max_in_flight_per_tenant=config.max_in_flight_per_tenant,
    )  # fmt: skip
    mirror = Mirror(
        generations=generations, host=host, seats=admission, recorder=capturing.responses, clock=time.monotonic
    )
    answers = Answers(
        deployments=deployments, generations=generations, host=host, models=models, responses=capturing.responses,
        admission=admission, mirror=mirror,
    )  # fmt: skip
    front = HttpFront(
        verifier=verifier, answers=answers, deployments=deployments, host=host, build=engine.openai_application,
        max_body_bytes=config.max_http_body_bytes, max_answer_s=config.max_answer_s,
    )  # fmt: skip
    http = HttpServer(front, config)
    following = [replicas.run, quotas.run] if replicas else []
    service = inference_service(
        answers=answers, deployments=deployments, generations=generations, host=host, models=models,
        capturing=capturing, quotas=quotas, admission=admission, verifier=verifier,
        replays=SqlReplayStore(database), health=health, max_answer_s=config.max_answer_s,
        background=[host.run, http.run, mirror.run, *capturing.background, *following],
        close=[http.close, host.close, client.close, capturing.responses.flush, database.close],
    )  # fmt: skip
    await serve(service, config)


if __name__ == "__main__":
    run("inference", InferenceConfig, main)
