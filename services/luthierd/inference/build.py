"""Builds the service: makes its parts from the configuration and connects them.

Some parts call each other in circles (a start replays deployments, a death forgets adapters); they are joined here.
"""

from __future__ import annotations

import pathlib
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from luthier import AsyncClient
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from luthierd.inference.adapters.artifacts import Artifacts
from luthierd.inference.adapters.loaded_adapter import CheckParity
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.adapters.parity import check_parity
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.fair_queue import FairQueue
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.api.deployment_service import DeploymentServicer, EngineServicer, TenantServicer
from luthierd.inference.api.feedback_service import FeedbackServicer
from luthierd.inference.api.inference_service import InferenceServicer
from luthierd.inference.completions.completions import Completions
from luthierd.inference.completions.leases import Leases, Models
from luthierd.inference.completions.mirror import Mirror
from luthierd.inference.completions.scoring import Scoring
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.deployments.references import REFERRERS, ROOTS
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.deployments.trainer_catalog import TrainerCatalog
from luthierd.inference.domain.quota import Limits
from luthierd.inference.engine.engine import StartEngine
from luthierd.inference.engine.engines import chosen_engine
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.feedback.capture_files import CaptureFiles
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.feedback import Feedbacks
from luthierd.inference.feedback.response_log import ResponseLog
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.inference.http.embeddings import Embedding
from luthierd.inference.http.front import EXPOSED_HEADERS, HttpFront
from luthierd.inference.http.generating import Generating
from luthierd.inference.http.models import Catalogue
from luthierd.inference.http.server import HttpServer
from luthierd.inference.replicas.replicas import Replicas
from luthierd.inference.replicas.store import SqlReplicaStore
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.contract import services_of
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Health, Service
from luthierd.rpc.storage_service import Storage
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore

VERSIONS = pathlib.Path(__file__).parent / "versions"

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What the service stands on. Tests put other parts in place of the engine, the trainer, and the stores."""

    config: InferenceConfig
    verifier: TokenVerifier
    store: SqlStore
    capturing: Capturing
    files: Artifacts
    models: Models
    start_engine: StartEngine
    replays: SqlReplayStore
    replica_store: SqlReplicaStore | None = None
    """None: no other server shares the desired state."""
    replica_name: str = ""
    check_parity: CheckParity = check_parity
    clock: Callable[[], float] = time.monotonic
    rng: random.Random | None = None


@dataclass(frozen=True, kw_only=True)
class Capturing:
    """The log of answers, capture policies and files, and feedback, over one store."""

    policies: CapturePolicies
    responses: ResponseLog
    files: CaptureFiles
    feedbacks: Feedbacks


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The connected parts."""

    health: Health
    replicas: Replicas | None
    host: EngineHost
    loaded_adapters: LoadedAdapters
    quotas: Quotas
    deployments: Deployments
    admission: Admission
    mirror: Mirror
    completions: Completions


async def build(
    config: InferenceConfig, *, database: Database | None = None, verifier: TokenVerifier | None = None
) -> Service:
    """The service over a migrated database. The engine starts with the background tasks."""
    database = database or Database.of(config, "inference")
    await database.migrate(VERSIONS)
    client = AsyncClient(endpoints_of(config))
    blobs = BlobStore.of(config, cache="inference/blobs")
    outside = Outside(
        config=config,
        verifier=verifier or TokenVerifier.of(config),
        store=SqlStore(database),
        capturing=make_capturing(
            SqlCaptureStore(database),
            blobs,
            response_retention_s=config.response_retention_s,
            capture_part_s=config.capture_part_s,
            capture_sweep_s=config.capture_sweep_s,
        ),
        files=Artifacts(blobs, config.home / "inference", max_adapter_bytes=config.max_adapter_bytes),
        models=TrainerCatalog(client, TokenIssuer.of(config)),
        start_engine=chosen_engine(config),
        replays=SqlReplayStore(database),
        replica_store=SqlReplicaStore(database) if database.is_shared else None,
        replica_name=f"{config.replica_name or socket.gethostname()}-{secrets.token_hex(3)}",
    )
    parts = await connect(outside)
    http = HttpServer(make_front(outside, parts), config)
    flush = outside.capturing.responses.flush
    storage = Storage.of(
        config,
        "inference",
        database,
        client=client,
        referrers=REFERRERS,
        roots=ROOTS,
        copies=["inference/blobs", "inference/adapters", "inference/base_models"],
    ).servicer
    return service_of(
        outside,
        parts,
        servicers=[storage],
        background=[http.run, outside.capturing.files.run, storage.sweep],
        close=[http.close, parts.host.close, client.close, flush, database.close],
    )


def make_capturing(
    store: SqlCaptureStore,
    blobs: BlobStore,
    *,
    response_retention_s: float,
    capture_part_s: float,
    capture_sweep_s: float,
    clock: Callable[[], float] = time.time,
) -> Capturing:
    """`responses.flush` must be called before the store is closed."""
    policies = CapturePolicies(store, clock=clock)
    responses = ResponseLog(store, policies, clock=clock)
    files = CaptureFiles(
        store,
        blobs,
        policies,
        part_interval_s=capture_part_s,
        sweep_interval_s=capture_sweep_s,
        response_retention_s=response_retention_s,
        clock=clock,
    )
    policies.on_opt_out = files.delete_doomed
    feedbacks = Feedbacks(store, responses, blobs, response_retention_s=response_retention_s, clock=clock)
    return Capturing(policies=policies, responses=responses, files=files, feedbacks=feedbacks)


async def connect(outside: Outside) -> Parts:
    """Connects the parts, and reads the desired state, quotas and capture policies."""
    config, store, health = outside.config, outside.store, Health()
    replicas = _make_replicas(outside, health)
    host = EngineHost(
        start=outside.start_engine, files=outside.files, store=store, set_serving=(replicas or health).set_serving
    )
    loaded_adapters = LoadedAdapters(
        files=outside.files,
        check_parity=outside.check_parity,
        store=store,
        max_cpu_loras=config.max_cpu_loras,
        max_unheld=config.max_unheld_adapters,
        clock=outside.clock,
    )
    quotas = _make_quotas(outside, replicas)
    deployments = Deployments(
        store=replicas or store,
        models=outside.models,
        loaded_adapters=loaded_adapters,
        host=host,
        check_adapters=quotas.check_adapters,
        rng=outside.rng,
    )
    host.on_started, host.on_lost = deployments.replay, loaded_adapters.forget_all
    if replicas is not None:
        replicas.attach(host, deployments, loaded_adapters)
    await host.read()
    await deployments.read()
    await quotas.read()
    await outside.capturing.policies.read()
    admission = _make_admission(config, quotas)
    recorder = outside.capturing.responses
    mirror = Mirror(
        loaded_adapters=loaded_adapters, host=host, admission=admission, recorder=recorder, clock=time.monotonic
    )
    leases = Leases(
        routes=deployments,
        loaded_adapters=loaded_adapters,
        host=host,
        models=outside.models,
        recorder=recorder,
        admission=admission,
    )
    return Parts(
        health=health,
        replicas=replicas,
        host=host,
        loaded_adapters=loaded_adapters,
        quotas=quotas,
        deployments=deployments,
        admission=admission,
        mirror=mirror,
        completions=Completions(leases, mirror),
    )


def _make_replicas(outside: Outside, health: Health) -> Replicas | None:
    if outside.replica_store is None:
        return None
    config = outside.config
    return Replicas(
        outside.replica_name,
        store=outside.replica_store,
        direct=outside.store,
        lease_s=config.replica_lease_s,
        poll_s=config.replica_poll_s,
        check_s=config.replica_check_s,
        set_serving=health.set_serving,
    )


def _make_quotas(outside: Outside, replicas: Replicas | None) -> Quotas:
    config = outside.config
    defaults = Limits(
        requests_per_minute=config.quota_requests_per_minute,
        tokens_per_minute=config.quota_tokens_per_minute,
        concurrent_requests=config.quota_concurrent_requests,
        deployed_adapters=config.quota_deployed_adapters,
    )
    count_replicas = replicas.live_count if replicas else None
    return Quotas(store=outside.store, defaults=defaults, meter_clock=outside.clock, count_replicas=count_replicas)


def _make_admission(config: InferenceConfig, quotas: Quotas) -> Admission:
    queue = FairQueue(
        slot_count=config.max_num_seqs,
        spare_count=config.spare_batch,
        adapter_slot_count=config.max_loras,
        patience=config.adapter_patience,
    )
    return Admission(
        queue=queue,
        quotas=quotas,
        max_in_flight=config.max_in_flight,
        max_in_flight_per_tenant=config.max_in_flight_per_tenant,
    )


def make_front(outside: Outside, parts: Parts) -> ASGIApp:
    """The OpenAI-compatible endpoint. Pages of the configured origins may call it, too."""
    config = outside.config
    front = HttpFront(
        verifier=outside.verifier,
        catalogue=Catalogue(parts.deployments, parts.host, outside.models),
        generating=Generating(parts.completions),
        embedding=Embedding(Scoring(parts.completions.leases)),
        host=parts.host,
        max_body_bytes=config.max_http_body_bytes,
        max_answer_s=config.max_answer_s,
        reader_limit_s=config.reader_limit_s,
    )
    origins = [origin.strip() for origin in config.http_allowed_origins.split(",") if origin.strip()]
    if not origins:
        return front
    return CORSMiddleware(
        front,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )


def service_of(
    outside: Outside,
    parts: Parts,
    *,
    servicers: Sequence[object] = (),
    background: Sequence[Step] = (),
    close: Sequence[Step] = (),
) -> Service:
    """What `serve()` needs; `servicers`, `background` and `close`: besides the parts' own."""
    config, capturing, replicas = outside.config, outside.capturing, parts.replicas
    inference = InferenceServicer(
        parts.completions, Scoring(parts.completions.leases), reader_limit_s=config.reader_limit_s
    )
    methods = [method.name for service in services_of(inference) for method in service.methods]
    return Service(
        name="inference",
        servicers=[
            inference,
            DeploymentServicer(parts.deployments, parts.loaded_adapters),
            EngineServicer(parts.host, outside.models, parts.loaded_adapters, parts.deployments),
            FeedbackServicer(capturing.feedbacks, capturing.policies, capturing.files),
            TenantServicer(parts.quotas, parts.admission, parts.deployments),
            *servicers,
        ],
        limits_s=dict.fromkeys(methods, config.max_answer_s),
        verifier=outside.verifier,
        replays=outside.replays,
        health=parts.health,
        background=[
            parts.host.run,
            parts.mirror.run,
            capturing.responses.run,
            *([replicas.run, parts.quotas.run] if replicas else []),
            *background,
        ],
        close=close,
    )
