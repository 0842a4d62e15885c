"""The inference server: `python -m luthierd.inference`. Builds the parts and connects them."""

from __future__ import annotations

import pathlib
import time

from luthier import AsyncClient

from luthierd.inference.adapters.artifacts import Artifacts
from luthierd.inference.admission.admission import make_admission
from luthierd.inference.api.inference_service import inference_service
from luthierd.inference.build import make_routing
from luthierd.inference.completions.completions import Answers
from luthierd.inference.completions.mirror import Mirror
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.trainer_catalog import TrainerCatalog
from luthierd.inference.engine.engines import chosen_engine
from luthierd.inference.feedback.capturing import make_capturing
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.inference.http.front import HttpFront
from luthierd.inference.http.server import HttpServer
from luthierd.process import run
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
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
    health, client = Health(), AsyncClient(endpoints_of(config))
    models = TrainerCatalog(client, issuer)
    blobs = BlobStore(config.blobs, cache=config.home / "inference/blobs")
    artifacts = Artifacts(blobs, config.home / "inference", max_adapter_bytes=config.max_adapter_bytes)
    engine = chosen_engine(config)
    routing = await make_routing(
        database, config, start_engine=engine.start, artifacts=artifacts, catalog=models, health=health
    )
    host, loaded_adapters, deployments, quotas = (
        routing.host,
        routing.loaded_adapters,
        routing.deployments,
        routing.quotas,
    )
    capturing = make_capturing(
        SqlCaptureStore(database),
        blobs,
        response_retention_s=config.response_retention_s,
        capture_part_s=config.capture_part_s,
        capture_sweep_s=config.capture_sweep_s,
    )
    await capturing.policies.read()
    admission = make_admission(config, quotas)
    mirror = Mirror(
        loaded_adapters=loaded_adapters, host=host, seats=admission, recorder=capturing.responses, clock=time.monotonic
    )
    answers = Answers(
        deployments=deployments,
        loaded_adapters=loaded_adapters,
        host=host,
        models=models,
        responses=capturing.responses,
        admission=admission,
        mirror=mirror,
    )
    front = HttpFront(
        verifier=verifier,
        answers=answers,
        deployments=deployments,
        host=host,
        build=engine.openai_application,
        max_body_bytes=config.max_http_body_bytes,
        max_answer_s=config.max_answer_s,
        reader_limit_s=config.reader_limit_s,
    )
    http = HttpServer(front, config)
    following = [routing.replicas.run, quotas.run] if routing.replicas else []
    service = inference_service(
        answers=answers,
        deployments=deployments,
        loaded_adapters=loaded_adapters,
        host=host,
        models=models,
        capturing=capturing,
        quotas=quotas,
        admission=admission,
        verifier=verifier,
        replays=SqlReplayStore(database),
        health=health,
        max_answer_s=config.max_answer_s,
        reader_limit_s=config.reader_limit_s,
        background=[host.run, http.run, mirror.run, *capturing.background, *following],
        close=[http.close, host.close, client.close, capturing.responses.flush, database.close],
    )
    await serve(service, config)


if __name__ == "__main__":
    run("inference", InferenceConfig, main)
