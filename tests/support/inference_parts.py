"""The inference service with a fake engine and a fake trainer, wired as `__main__` wires the real ones."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import pathlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from luthierd.errors import InvalidArgumentError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.fair_queue import FairQueue
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.api.inference_service import inference_service
from luthierd.inference.completions.completions import Answers
from luthierd.inference.completions.mirror import Mirror
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.deployments.store import MemoryStore, SqlStore
from luthierd.inference.deployments.trainer_catalog import BaseModelNotFoundError, RevisionNotFoundError
from luthierd.inference.domain.completion import Structure, TokenAlternative, TokenLogprob, Turn
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.engine import Stage
from luthierd.inference.domain.errors import (
    AdapterHasNoEffectError,
    AdapterInvalidError,
    AdapterNotFiniteError,
    EmbedUnsupportedError,
    EngineDiedError,
    EngineStartError,
)
from luthierd.inference.domain.parity import ParityCertificate
from luthierd.inference.domain.quota import Limits
from luthierd.inference.engine.engine import Engine, EngineAdapter, EnginePiece, EngineRequest
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.http.front import Application, BuildApplication, HttpFront
from luthierd.inference.replicas.replicas import Replicas, ReplicaTimes
from luthierd.inference.replicas.store import SqlReplicaStore
from luthierd.rpc.server import Health, Service
from luthierd.storage.blobs import BlobNotFoundError
from luthierd.storage.database import Database
from luthierd.storage.replays import Replay

from support.capture_parts import CaptureParts, make_capture_parts
from support.serving import VERIFIER

TIMEOUT_S = 10.0
BASE = BaseModel("baseModels/tiny", "b" * 64)
OTHER_BASE = BaseModel("baseModels/other", "c" * 64)


def revision(name: str, *, tenant: str = "acme", content: str = "", base: BaseModel = BASE) -> AdapterRevision:
    """`tenants/{tenant}/adapters/support/revisions/{name}`; `content` decides the digest, else tenant and name."""
    digest = hashlib.sha256((content or tenant + name).encode()).hexdigest()
    return AdapterRevision(f"tenants/{tenant}/adapters/support/revisions/{name}", digest, base)


async def until(holds: Callable[[], bool]) -> None:
    """Lets everything else run until it holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - the fakes have no events for these
            await asyncio.sleep(0)


class FakeEngine:
    """Answers with the name of the weights, word by word; `gate` holds answers back, `die` ends it."""

    version, dtype, window, max_rank, vocabulary_size = "fake 1 (memory)", "float32", 64, 16, 256
    start_stages = (Stage("wake", 0.5),)

    def __init__(self) -> None:
        self.loaded: dict[int, EngineAdapter] = {}
        self.unloaded: list[EngineAdapter] = []
        self.requests: list[EngineRequest] = []
        self.aborted = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.began, self.stopped = asyncio.Event(), asyncio.Event()
        self.dead = asyncio.Event()
        self.is_closed = self.cannot_embed = False

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        return tuple(text.encode())

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(chr(token_id) for token_id in token_ids)

    def check_structure(self, structure: Structure) -> None:
        if structure.text == "(":
            raise InvalidArgumentError.of_field(structure.field, "it does not parse")

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        return tuple("".join(turn.content for turn in turns).encode())

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EnginePiece, None]:
        self._check_alive()
        self.requests.append(request)
        who = "base"
        if request.adapter is not None:
            assert request.adapter.number in self.loaded, "an adapter is used that is not loaded"
            who = request.adapter.folder.name
        finished = False
        try:
            for word in ("I", "am"):
                for choice in range(request.sampling.choice_count):
                    yield self._piece(request, f"{word} ", choice=choice)
            self.began.set()
            waits = [asyncio.create_task(self.gate.wait()), asyncio.create_task(self.dead.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self._check_alive()
            if request.adapter is not None:
                assert request.adapter.number in self.loaded, "an adapter was unloaded under a request"
            for choice in range(request.sampling.choice_count):
                yield self._piece(request, who, "stop", choice=choice)
            finished = True
        finally:
            self.aborted += not finished
            if not finished:
                self.stopped.set()

    @staticmethod
    def _piece(request: EngineRequest, text: str, reason: str = "", *, choice: int) -> EnginePiece:
        """One token, whose id is the length of its text; of eight tokens of a prompt, one was cached."""
        count = request.sampling.top_logprob_count
        alternatives = tuple(TokenAlternative(place, str(place), -1.0 - place) for place in range(count or 0))
        token = TokenLogprob(token_id=len(text), text=text, logprob=-0.25, alternatives=alternatives)
        return EnginePiece(
            text,
            1,
            reason,
            choice=choice,
            logprobs=() if count is None else (token,),
            cached_prompt_token_count=len(request.prompt_ids) // 8,
            queue_s=0.5,
        )

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        if self.cannot_embed:
            raise EmbedUnsupportedError(self.version)
        return tuple((1.0, float(len(ids))) for ids in texts)

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
    ) -> tuple[float, ...]:
        return tuple(-1.0 if adapter is None else -0.5 for _ in completion_ids)

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        self._check_alive()
        if adapter.folder.name.endswith("refused"):
            raise AdapterInvalidError("the engine does not take it", metadata={"detail": "test"})
        assert adapter.number not in self.loaded
        self.loaded[adapter.number] = adapter

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        self.unloaded.append(self.loaded.pop(adapter.number))

    async def wait_dead(self) -> None:
        await self.dead.wait()

    async def close(self) -> None:
        self.is_closed = True

    def die(self) -> None:
        """As after `kill -9` of the engine's process."""
        self.loaded.clear()
        self.dead.set()

    def _check_alive(self) -> None:
        if self.dead.is_set():
            raise EngineDiedError


class FakeTrainer:
    """Knows the revisions and base models that it was told of."""

    def __init__(self, *known: AdapterRevision) -> None:
        self.revisions = {one.name: one for one in known}
        self.models = {BASE.name: BASE, OTHER_BASE.name: OTHER_BASE}

    def add(self, *more: AdapterRevision) -> None:
        self.revisions |= {one.name: one for one in more}

    async def adapter_revision(self, name: str) -> AdapterRevision:
        if name not in self.revisions:
            raise RevisionNotFoundError(f"no {name}", metadata={"adapter_revision": name})
        return self.revisions[name]

    async def base_model(self, name: str) -> BaseModel:
        if name not in self.models:
            raise BaseModelNotFoundError(f"no {name}", metadata={"base_model": name})
        return self.models[name]


class FakeFiles:
    """Folders that need not exist, named after the revisions; `missing` ones are gone, `broken` do not verify."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.broken: set[str] = set()
        self.fetched: list[str] = []

    async def base_model_folder(self, base_model: BaseModel) -> pathlib.Path:
        return pathlib.Path("/nowhere") / base_model.sha256

    async def fetch(self, revision: AdapterRevision) -> pathlib.Path:
        await self.check_present(revision)
        self.fetched.append(revision.sha256)
        tenant, name = revision.name.split("/")[1], revision.name.rpartition("/")[2]
        return pathlib.Path("/nowhere") / f"{tenant}-{name}"

    async def verify(self, revision: AdapterRevision, folder: pathlib.Path, *, max_rank: int) -> None:
        if revision.sha256 in self.broken:
            raise AdapterNotFiniteError("it holds numbers that are not finite", metadata={"tensor": "x"})

    async def check_present(self, revision: AdapterRevision) -> None:
        if revision.sha256 in self.missing:
            raise BlobNotFoundError(revision.sha256)


class MemoryReplays:
    """First answers, in memory."""

    def __init__(self) -> None:
        self._replays: dict[str, Replay] = {}

    async def get(self, key: str) -> Replay | None:
        return self._replays.get(key)

    async def put(self, key: str, replay: Replay) -> None:
        self._replays[key] = replay


CERTIFICATE = ParityCertificate(
    row_count=2,
    token_count=32,
    deviation_mean_nats=2e-6,
    deviation_max_nats=2e-5,
    base_deviation_mean_nats=0.002,
    effect_mean_nats=1.5,
    effect_max_nats=6.0,
    tolerance_nats=0.001,
    engine_version=FakeEngine.version,
    engine_dtype="float32",
    training_dtype="float32",
    check_time=1.5,
)


class FakeProofs:
    """Every adapter is fine, but those in `refused`; remembers which it was asked about. `gate` holds proofs back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.refused: set[str] = set()

    async def prove(self, engine: Engine, adapter: EngineAdapter) -> ParityCertificate:
        self.asked.append(adapter.folder.name)
        await self.gate.wait()
        if adapter.folder.name in self.refused:
            raise AdapterHasNoEffectError("the engine answers as without it", metadata={"effect_nats": "0"})
        return CERTIFICATE


async def _no_application(engine: Engine) -> Application:
    raise AssertionError("this test has no HTTP")


@dataclasses.dataclass(frozen=True)
class Replica:
    """One of several servers on one database."""

    name: str
    database: Database
    times: ReplicaTimes


@dataclasses.dataclass
class Parts:
    """All parts, with the fakes at hand. `engines` has every engine that was started, the last one lives."""

    trainer: FakeTrainer
    files: FakeFiles
    proofs: FakeProofs
    store: MemoryStore | SqlStore
    engines: list[FakeEngine]
    host: EngineHost
    loaded_adapters: LoadedAdapters
    deployments: Deployments
    answers: Answers
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
    store: MemoryStore | SqlStore | None = None,
    replica: Replica | None = None,
    max_cpu_loras: int = 8,
    max_unheld: int = 2,
    max_in_flight: int = 32,
    max_in_flight_per_tenant: int = 32,
    max_num_seqs: int = 32,
    spare_batch: int = 0,
    max_answer_s: float = TIMEOUT_S,
    reader_limit_s: float = TIMEOUT_S,
    build: BuildApplication = _no_application,
    meter_clock: Callable[[], float] = time.monotonic,
    clock: Callable[[], float] = time.monotonic,
) -> Parts:
    """Parts around a fake engine that starts at once."""
    trainer, files, store, health = FakeTrainer(*known), FakeFiles(), store or MemoryStore(), Health()
    engines: list[FakeEngine] = []

    unstartable: set[str] = set()
    can_start = asyncio.Event()
    can_start.set()

    async def start(folder: pathlib.Path) -> FakeEngine:
        if folder.name in unstartable:
            raise EngineStartError("vLLM could not start")
        await can_start.wait()
        engines.append(FakeEngine())
        return engines[-1]

    replicas = replica and Replicas(
        replica.name,
        store=SqlReplicaStore(replica.database),
        direct=store,
        times=replica.times,
        set_serving=health.set_serving,
    )
    host = EngineHost(start=start, files=files, store=store, set_serving=(replicas or health).set_serving)
    proofs = FakeProofs()
    loaded_adapters = LoadedAdapters(
        files=files, prove=proofs.prove, proofs=store, max_cpu_loras=max_cpu_loras, max_unheld=max_unheld, clock=clock
    )
    quotas = Quotas(store=store, defaults=Limits(), meter_clock=meter_clock)
    deployments = Deployments(
        store=replicas or store,
        catalog=trainer,
        loaded_adapters=loaded_adapters,
        host=host,
        check_adapters=quotas.check_adapters,
        rng=random.Random(7),
    )
    host.on_started, host.on_died = deployments.replay, loaded_adapters.forget_all
    if replicas is not None:
        replicas.attach(host, deployments, loaded_adapters)
    await deployments.read()
    capture = await make_capture_parts()
    await quotas.read()
    queue = FairQueue(seat_count=max_num_seqs, spare_count=spare_batch, slot_count=8, patience=4)
    admission = Admission(
        queue=queue, quotas=quotas, max_in_flight=max_in_flight, max_in_flight_per_tenant=max_in_flight_per_tenant
    )
    mirror = Mirror(
        loaded_adapters=loaded_adapters,
        host=host,
        seats=admission,
        recorder=capture.capturing.responses,
        clock=time.monotonic,
    )
    answers = Answers(
        deployments=deployments,
        loaded_adapters=loaded_adapters,
        host=host,
        models=trainer,
        admission=admission,
        responses=capture.capturing.responses,
        mirror=mirror,
    )
    front = HttpFront(
        verifier=VERIFIER,
        answers=answers,
        deployments=deployments,
        host=host,
        build=build,
        max_body_bytes=100_000,
        max_answer_s=max_answer_s,
        reader_limit_s=reader_limit_s,
    )
    service = inference_service(
        answers=answers,
        deployments=deployments,
        loaded_adapters=loaded_adapters,
        host=host,
        models=trainer,
        capturing=capture.capturing,
        quotas=quotas,
        admission=admission,
        verifier=VERIFIER,
        replays=MemoryReplays(),
        health=health,
        max_answer_s=max_answer_s,
        reader_limit_s=reader_limit_s,
        background=[host.run, mirror.run, capture.capturing.responses.run, *([replicas.run] if replicas else [])],
        close=[host.close, capture.close],
    )
    return Parts(
        trainer,
        files,
        proofs,
        store,
        engines,
        host,
        loaded_adapters,
        deployments,
        answers,
        front,
        service,
        unstartable,
        can_start,
        capture,
        quotas,
        admission,
        mirror,
    )
