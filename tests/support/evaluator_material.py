"""Rows, answers and fakes for the evaluator's tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from luthierd.errors import LuthierError, NotFoundError
from luthierd.evaluator.decisions.holdout_ledger import (
    AccessCounts,
    EvaluationAccesses,
    FinalSliceSpentError,
    HoldoutAccess,
    Ledger,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import (
    AdapterRevision,
    DatasetRevision,
    EvaluationConfig,
    EvaluationInputs,
    Progress,
)
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Message, Row
from luthierd.evaluator.models.generate import Generator, Reply
from luthierd.evaluator.models.sample_store import SampleCache
from luthierd.evaluator.run.evaluation import EvaluationRun, Models
from luthierd.evaluator.scorers.registry import metrics_of
from luthierd.evaluator.scorers.scorer import SCORERS, Scorer, ScoringMaterial
from luthierd.paging import Page, PageRequest
from luthierd.storage.blob_errors import BlobNotFoundError
from luthierd.storage.blobs import Blob, BlobStore


def reference_of(summary: str, module: str) -> str:
    return json.dumps({"summary": summary, "module": module})


def row(number: int, *, group: str | None = None, split: str = "holdout") -> Row:
    """A docstring row: three rows a group, two modules."""
    module = "linalg" if number % 2 else "stats"
    return Row(
        id=f"{split}-{number}",
        group=group or f"{split}-group-{number // 3}",
        label=module,
        prompt=(Message("user", f"Describe as JSON.\ndef {split}_function_{number}(x): return x + {number}"),),
        reference=reference_of(f"Return {split} value number {number} of the input.", module),
    )


def rows(count: int, *, split: str = "holdout") -> list[Row]:
    return [row(number, split=split) for number in range(count)]


def answer(arm: Arm, row_id: str, text: str, *, start_s: float = 0.0, total_s: float = 1.0) -> Answer:
    return Answer(
        arm=arm,
        row_id=row_id,
        text=text,
        start_s=start_s,
        ttft_s=total_s / 4,
        total_s=total_s,
        prompt_tokens=100,
        completion_tokens=20,
        finish_reason="stop",
        loaded_adapter="base",
    )


class HashingEmbedder:
    """Unit vectors of hashed words: equal texts are equal, texts with common words are near. Counts its batches."""

    digest = "0" * 64

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.batches.append(len(texts))
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for position, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                vectors[position, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class MemorySampleStore:
    """Answers in a list; the first to a (arm, row) stays."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Arm, str], Answer] = {}

    async def answers(self) -> Sequence[Answer]:
        return list(self.kept.values())

    async def add(self, answer: Answer, *, content_key: str | None = None) -> None:
        self.kept.setdefault((answer.arm, answer.row_id), answer)


class ScriptedModel:
    """Answers by a function of (arm, messages); counts calls and how many ran at once."""

    def __init__(self, script: Callable[[Arm, Sequence[Message]], str | LuthierError]) -> None:
        self._script = script
        self.calls: list[tuple[Arm, tuple[Message, ...]]] = []
        self.running = 0
        self.most_running = 0

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        self.calls.append((arm, tuple(messages)))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            said = self._script(arm, messages)
        finally:
            self.running -= 1
        if isinstance(said, LuthierError):
            raise said
        return Reply(
            text=said,
            ttft_s=0.01,
            prompt_tokens=50,
            completion_tokens=len(said.split()),
            finish_reason="stop",
            loaded_adapter="base",
        )


class MemoryBlobs:
    """A blob store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put_bytes(self, data: bytes) -> Blob:
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return Blob(digest, len(data))

    def read_bytes(self, sha256: str) -> bytes:
        if sha256 not in self.kept:
            raise BlobNotFoundError(sha256)
        return self.kept[sha256]

    def read_range(self, sha256: str, offset_bytes: int, limit_bytes: int) -> bytes:
        return self.kept[sha256][offset_bytes : offset_bytes + limit_bytes]

    def size_bytes(self, sha256: str) -> int:
        return len(self.kept[sha256])


class MemoryCatalogue:
    """Indexes by key, in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], str] = {}

    async def find(self, tenant: str, train_sha256: str, embedder_sha256: str) -> str | None:
        return self.kept.get((tenant, train_sha256, embedder_sha256))

    async def add(self, tenant: str, train_sha256: str, embedder_sha256: str, *, blob_sha256: str) -> None:
        self.kept[tenant, train_sha256, embedder_sha256] = blob_sha256


class FakePeers:
    """Trainer and curation with one adapter revision and the dataset revision that it was trained on."""

    adapter = AdapterRevision(
        "tenants/acme/adapters/docs/revisions/r1",
        "a" * 64,
        "baseModels/tiny",
        "b" * 64,
        "tenants/acme/datasets/docs/revisions/r1",
    )

    def __init__(self, blobs: MemoryBlobs | BlobStore, *, train: int = 40, holdout: int = 24) -> None:
        self.is_ready = True
        self.deployed: dict[str, Sequence[str]] = {}
        splits = {"train": rows(train, split="train"), "holdout": rows(holdout), "validation": []}
        self.splits = {name: blobs.put_bytes(to_split(found)).sha256 for name, found in splits.items()}
        self.counts = {name: len(found) for name, found in splits.items()}

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision:
        if name != self.adapter.name:
            raise NotFoundError(f"there is no {name}", metadata={"adapter_revision": name})
        return self.adapter

    async def training_s(self, tenant: str, adapter_revision: str) -> float | None:
        return 180.0

    async def base_model_sha256(self, tenant: str, name: str) -> str:
        return self.adapter.base_model_sha256

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision:
        if name != FakePeers.adapter.dataset_revision:
            raise NotFoundError(f"there is no {name}", metadata={"dataset_revision": name})
        return DatasetRevision(name, "c" * 64, self.is_ready, self.splits, self.counts)

    async def deployed_adapters(self, tenant: str, deployment: str) -> Sequence[str]:
        return self.deployed.get(deployment, ())


def to_split(found: Sequence[Row]) -> bytes:
    """Rows as curation writes them."""
    lines = []
    for one in found:
        messages = [{"role": turn.role, "content": turn.content} for turn in one.prompt]
        messages.append({"role": "assistant", "content": one.reference})
        content = {"id": one.id, "group": one.group, "label": one.label, "messages": messages, "choices": one.choices}
        lines.append(json.dumps(content, sort_keys=True) + "\n")
    return "".join(lines).encode()


QUICK = ("exact_match", "json_valid", "label_accuracy", "rouge_l")
SLOW = ("chrf", "semantic_similarity", "field_exact")


def quick_scorers(material: ScoringMaterial) -> list[Scorer]:
    """The scorers that need no model: four always, and what the configuration asks for besides."""
    wanted = dict.fromkeys([*map(Metric, QUICK), *metrics_of(material.config)])
    return [SCORERS[metric].build(material) for metric in wanted if metric not in SLOW]


def adapter_knows(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
    """A script: the adapter answers with the reference, the others with prose."""
    question = messages[-1].content
    number = int(question.rsplit(" ", 1)[1])
    split = "train" if "train_function" in question else "holdout"
    return row(number, split=split).reference if arm.uses_adapter else "It returns something of the input."


def quick_run(
    name: str,
    peers: FakePeers,
    blobs: MemoryBlobs | BlobStore,
    *,
    config: EvaluationConfig,
    chat_model: ScriptedModel | None = None,
    samples: MemorySampleStore | None = None,
    catalogue: MemoryCatalogue | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    ledger: Ledger | None = None,
    cache: SampleCache | None = None,
) -> EvaluationRun:
    """A run with every slow part faked."""
    samples = samples or MemorySampleStore()
    inputs = EvaluationInputs(
        adapter_revision=peers.adapter.name,
        adapter_sha256=peers.adapter.sha256,
        base_model=peers.adapter.base_model,
        base_model_sha256=peers.adapter.base_model_sha256,
        dataset_revision=peers.adapter.dataset_revision,
        dataset_sha256="c" * 64,
        rows_sha256=peers.splits[config.split],
        train_sha256=peers.splits["train"],
        trained_sha256=peers.splits["train"],
    )
    chat_model = chat_model or ScriptedModel(adapter_knows)
    return EvaluationRun(
        name=name,
        tenant="acme",
        inputs=inputs,
        config=config,
        generator=Generator(
            chat_model=chat_model, samples=samples, clock=ManualClock(), concurrency=config.concurrency, cache=cache
        ),
        samples=samples,
        blobs=blobs,
        catalogue=catalogue or MemoryCatalogue(),
        models=Models(HashingEmbedder, quick_scorers),
        versions=lambda: {"ragas": "0.4.3"},
        progress=progress,
        shot_characters=200,
        accesses=EvaluationAccesses(ledger or MemoryLedger(), "tester", lambda: 1000.0),
    )


class MemoryLedger:
    """Looks in a list."""

    def __init__(self) -> None:
        self.kept: dict[str, HoldoutAccess] = {}

    async def record(self, look: HoldoutAccess) -> None:
        if look.id in self.kept:
            return
        spent = await self.final_access(look.final_key) if look.final_key else None
        if spent is not None:
            raise FinalSliceSpentError(spent)
        self.kept[look.id] = look

    async def counts(self, tenant: str, rows_sha256: str) -> AccessCounts:
        mine = [look for look in self._of(tenant, rows_sha256) if not look.is_gate]
        final = sum(look.is_final for look in mine)
        return AccessCounts(len(mine) - final, final)

    async def final_access(self, final_key: str) -> HoldoutAccess | None:
        return next((look for look in self.kept.values() if look.final_key == final_key), None)

    async def list(self, tenant: str, rows_sha256: str, page: PageRequest) -> Page[HoldoutAccess]:
        found = self._of(tenant, rows_sha256)[::-1][: page.limit]
        return page.page(found, [look.id for look in found])

    def _of(self, tenant: str, rows_sha256: str) -> Sequence[HoldoutAccess]:
        return [look for look in self.kept.values() if (look.tenant, look.rows_sha256) == (tenant, rows_sha256)]


class ManualClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0)
