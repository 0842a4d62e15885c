"""A fake engine, a fake trainer and fake files for tests of the inference service."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import Structure, TokenAlternative, TokenLogprob, Turn
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.engine import Stage
from luthierd.inference.domain.errors import (
    AdapterHasNoEffectError,
    AdapterInvalidError,
    AdapterNotFiniteError,
    BaseModelNotFoundError,
    EmbedUnsupportedError,
    EngineDiedError,
    RevisionNotFoundError,
)
from luthierd.inference.domain.parity import ParityCertificate
from luthierd.inference.engine.engine import Engine, EngineAdapter, EngineDelta, EngineRequest, OpenAIApplication
from luthierd.storage.blob_errors import BlobNotFoundError
from luthierd.storage.replays import Replay

TIMEOUT_S = 10.0
BASE = BaseModel("baseModels/tiny", "b" * 64)
OTHER_BASE = BaseModel("baseModels/other", "c" * 64)


def revision(name: str, *, tenant: str = "acme", content: str = "", base: BaseModel = BASE) -> AdapterRevision:
    """`tenants/{tenant}/adapters/support/revisions/{name}`; `content` decides the digest, else tenant and name."""
    digest = hashlib.sha256((content or tenant + name).encode()).hexdigest()
    return AdapterRevision(f"tenants/{tenant}/adapters/support/revisions/{name}", digest, base)


class FakeEngine:
    """Answers with the name of the weights, word by word; `gate` holds answers back, `die` ends it.

    `reading_gate` holds back the tokens of the text "slow"; `running_count`: answers that it makes at a time, at most
    `most_running`.
    """

    version, dtype, window, max_rank, vocabulary_size = "fake 1 (memory)", "float32", 64, 16, 256
    max_characters_per_token, cache_token_count = 1, 0
    start_stages = (Stage("wake", 0.5),)

    def __init__(self, application: Callable[[FakeEngine], OpenAIApplication] | None = None) -> None:
        """`application`: makes the OpenAI application; None: the test has no HTTP."""
        self._application = application
        self.loaded: dict[int, EngineAdapter] = {}
        self.unloaded: list[EngineAdapter] = []
        self.requests: list[EngineRequest] = []
        self.rendered: list[Sequence[Turn]] = []
        self.aborted = self.running_count = self.most_running = 0
        self.tokenized: list[str] = []
        self.reading_gate = threading.Event()
        self.reading_gate.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.began, self.stopped = asyncio.Event(), asyncio.Event()
        self.dead = asyncio.Event()
        self.is_closed = self.cannot_embed = False

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        self.tokenized.append(text)
        assert text != "slow" or self.reading_gate.wait(TIMEOUT_S)
        return tuple(text.encode())

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(chr(token_id) for token_id in token_ids)

    async def check_structure(self, structure: Structure, *, tenant: str) -> None:
        if structure.text == "(":
            raise InvalidArgumentError.of_field(structure.field, "it does not parse")

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        self.rendered.append(turns)
        return self.tokenize("".join(turn.content for turn in turns))

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        self._check_alive()
        self.requests.append(request)
        self.running_count += request.sampling.choice_count
        self.most_running = max(self.most_running, self.running_count)
        who = "base"
        if request.adapter is not None:
            assert request.adapter.number in self.loaded, "an adapter is used that is not loaded"
            who = request.adapter.folder.name
        finished = False
        try:
            for word in ("I", "am"):
                for choice in range(request.sampling.choice_count):
                    yield self._delta(request, f"{word} ", choice=choice)
            self.began.set()
            waits = [asyncio.create_task(self.gate.wait()), asyncio.create_task(self.dead.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self._check_alive()
            if request.adapter is not None:
                assert request.adapter.number in self.loaded, "an adapter was unloaded under a request"
            for choice in range(request.sampling.choice_count):
                yield self._delta(request, who, "stop", choice=choice)
            finished = True
        finally:
            self.running_count -= request.sampling.choice_count
            self.aborted += not finished
            if not finished:
                self.stopped.set()

    @staticmethod
    def _delta(request: EngineRequest, text: str, reason: str = "", *, choice: int) -> EngineDelta:
        """One token, whose id is the length of its text; of eight tokens of a prompt, one was cached."""
        count = request.sampling.top_logprob_count
        alternatives = tuple(TokenAlternative(place, str(place), -1.0 - place) for place in range(count or 0))
        token = TokenLogprob(token_id=len(text), text=text, logprob=-0.25, alternatives=alternatives)
        return EngineDelta(
            text=text,
            token_count=1,
            finish_reason=reason,
            choice=choice,
            logprobs=() if count is None else (token,),
            cached_prompt_token_count=len(request.prompt_ids) // 8,
            queue_s=0.5,
        )

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        if self.cannot_embed:
            raise EmbedUnsupportedError(engine=self.version)
        return tuple((1.0, float(len(ids))) for ids in texts)

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
        tenant: str = "",
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

    async def openai_application(self) -> OpenAIApplication:
        assert self._application is not None, "this test has no HTTP"
        return self._application(self)

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
            raise RevisionNotFoundError(adapter_revision=name)
        return self.revisions[name]

    async def base_model(self, name: str) -> BaseModel:
        if name not in self.models:
            raise BaseModelNotFoundError(base_model=name)
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


class FakeParity:
    """Every adapter passes but those in `refused`; `asked` has those that were checked. `gate` holds checks back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.refused: set[str] = set()

    async def check(self, engine: Engine, adapter: EngineAdapter) -> ParityCertificate:
        self.asked.append(adapter.folder.name)
        await self.gate.wait()
        if adapter.folder.name in self.refused:
            raise AdapterHasNoEffectError("the engine answers as without it", metadata={"effect_nats": "0"})
        return CERTIFICATE
