"""The inference service as `build` connects it, with a fake engine, a fake trainer and fake files."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any

from luthierd.inference import build
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.completions.completions import Completions
from luthierd.inference.completions.mirror import Mirror
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.errors import EngineStartError
from luthierd.inference.engine.engine import OpenAIApplication
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.http.front import HttpFront
from luthierd.inference.replicas.store import SqlReplicaStore
from luthierd.rpc.server import Service
from luthierd.storage.database import Database

from support.capture_parts import CaptureParts, make_capture_parts
from support.inference_fakes import BASE, TIMEOUT_S, FakeEngine, FakeFiles, FakeParity, FakeTrainer, MemoryReplays
from support.memory_store import MemoryStore
from support.serving import VERIFIER


@dataclasses.dataclass(frozen=True)
class Replica:
    """One of several servers on one database."""

    name: str
    database: Database


@dataclasses.dataclass(kw_only=True)
class Parts:
    """All parts, with the fakes at hand. `engines` has every engine that was started, the last one lives."""

    trainer: FakeTrainer
    files: FakeFiles
    parity: FakeParity
    store: MemoryStore | SqlStore
    engines: list[FakeEngine]
    host: EngineHost
    loaded_adapters: LoadedAdapters
    deployments: Deployments
    completions: Completions
    front: HttpFront
    service: Service
    unstartable: set[str]
    can_start: asyncio.Event
    capture: CaptureParts
    quotas: Quotas
    admission: Admission
    mirror: Mirror

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]


async def make_parts(
    *known: AdapterRevision,
    base_model: BaseModel | None = BASE,
    store: MemoryStore | SqlStore | None = None,
    replica: Replica | None = None,
    application: Callable[[FakeEngine], OpenAIApplication] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> Parts:
    """Parts around a fake engine that starts at once. `settings`: fields of `InferenceConfig`.

    `base_model`: what an operator chose before, unless the store has a choice.
    """
    trainer, files, parity, store = FakeTrainer(*known), FakeFiles(), FakeParity(), store or MemoryStore()
    if base_model is not None and await store.chosen_base_model() is None:
        await store.choose_base_model(base_model)
    engines: list[FakeEngine] = []
    unstartable: set[str] = set()
    can_start = asyncio.Event()
    can_start.set()

    async def start(folder: pathlib.Path) -> FakeEngine:
        if folder.name in unstartable:
            raise EngineStartError("vLLM could not start")
        await can_start.wait()
        engines.append(FakeEngine(application))
        return engines[-1]

    limits = {"max_cpu_loras": 8, "max_unheld_adapters": 2, "max_in_flight": 32, "max_in_flight_per_tenant": 32}
    times = {"max_answer_s": TIMEOUT_S, "reader_limit_s": TIMEOUT_S}
    sizes = {"spare_batch": 0, "max_http_body_bytes": 100_000}
    capture = await make_capture_parts()
    outside = build.Outside(
        config=InferenceConfig(**limits | times | sizes | settings),
        verifier=VERIFIER,
        store=store,
        capturing=capture.capturing,
        files=files,
        models=trainer,
        start_engine=start,
        replays=MemoryReplays(),
        replica_store=SqlReplicaStore(replica.database) if replica else None,
        replica_name=replica.name if replica else "",
        check_parity=parity.check,
        clock=clock,
        rng=random.Random(7),
    )
    parts = await build.connect(outside)
    return Parts(
        trainer=trainer,
        files=files,
        parity=parity,
        store=store,
        engines=engines,
        host=parts.host,
        loaded_adapters=parts.loaded_adapters,
        deployments=parts.deployments,
        completions=parts.completions,
        front=build.make_front(outside, parts),
        service=build.service_of(outside, parts, close=[parts.host.close, capture.close]),
        unstartable=unstartable,
        can_start=can_start,
        capture=capture,
        quotas=parts.quotas,
        admission=parts.admission,
        mirror=parts.mirror,
    )
