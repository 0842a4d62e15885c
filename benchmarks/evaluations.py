"""A whole evaluation on the real engine: five arms compared with sending the same queries one at a time, and the
overhead beyond the engine's time.

The peer has one query in flight, as lm-eval's API models do by default (`num_concurrent=1`), and uses the same service:
the ratio compares how queries are sent, not engines. Its total is the sum over queries, so only every tenth is sent and
the sum multiplied by ten. The overhead is index, scorers, statistics, report and stored samples, and includes loading
the embedder and RAGAS.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.special
from luthierd.evaluator import worker
from luthierd.evaluator.api.peers import InferenceModel
from luthierd.evaluator.build import VERSIONS
from luthierd.evaluator.decisions.holdout_ledger import EvaluationAccesses
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Progress
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.arms import target_of
from luthierd.evaluator.models.costs import union_s
from luthierd.evaluator.models.generate import Generator, Reply, SystemClock
from luthierd.evaluator.models.sample_store import SqlSampleStore
from luthierd.evaluator.retrieval.indexes import SqlIndexCatalogue
from luthierd.evaluator.run.evaluation import EvaluationRun, Models
from luthierd.storage.database import Database
from support.inference_server import BASE, InferenceServer

from benchmarks import results, server

QUERIES, TRAIN_ROWS, NEW_TOKENS, TIMEOUT_S = 200, 100, 32, 240.0
PEER_EVERY = 10
NAME = f"tenants/{server.TENANT}/evaluations/bench"


def measure(
    model: pathlib.Path, folder: pathlib.Path, adapter: pathlib.Path, *, queries: int = QUERIES
) -> Iterator[dict[str, object]]:
    """Two results of one round each."""
    with server.running(folder / "evaluations", model) as inference:
        (revision,) = server.register(inference, [adapter])
        ours_s, engine_s, peer_s, stages_s = asyncio.run(_both(inference, revision, queries))
    what = f"five arms x {queries} queries"
    name = f"seconds, {what}: an evaluation / one query after another"
    yield results.ratio("evaluations", name, [(ours_s, peer_s)], target="<= 0.5")
    name = f"seconds, {what}: beyond the engine's / the engine's"
    yield results.ratio("evaluations", name, [(ours_s - engine_s, engine_s)], target="<= 0.1") | {"stages_s": stages_s}


class Recording:
    """An answerer that keeps what it was asked."""

    def __init__(self, chat_model: InferenceModel) -> None:
        self._chat_model = chat_model
        self.asked: list[tuple[Arm, Sequence[Message]]] = []

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        """As `InferenceModel.generate`."""
        self.asked.append((arm, messages))
        return await self._chat_model.generate(arm, messages, max_tokens=max_tokens, temperature=temperature, seed=seed)


class Stages:
    """Start time of each phase of a run."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {"read": time.perf_counter()}

    def __call__(self, progress: Progress) -> None:
        self.began.setdefault(progress.phase, time.perf_counter())

    def seconds(self) -> dict[str, float]:
        """Duration of each phase; the last one until now."""
        ends = [*self.began.values(), time.perf_counter()]
        return {name: round(end - start, 2) for (name, start), end in zip(self.began.items(), ends[1:], strict=True)}


async def _both(
    inference: InferenceServer, revision: str, queries: int
) -> tuple[float, float, float, dict[str, float]]:
    """Seconds of our evaluation, those in which a query of it was in flight, those of the peer, and ours by phase."""
    database = Database(f"sqlite+aiosqlite:///{inference.folder / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    config = EvaluationConfig(max_answer_tokens=NEW_TOKENS)
    inputs = _inputs(inference, revision, queries)
    async with server.client(inference) as client:
        chat_model = Recording(
            InferenceModel(client, lambda arm: target_of(arm, inputs, config).name, timeout_s=TIMEOUT_S)
        )
        for arm in (Arm.BASE, Arm.ADAPTER):  # neither side includes starting the engine and loading the adapter
            await chat_model.generate(arm, [Message("user", "Hello")], max_tokens=1)
        chat_model.asked.clear()
        samples = SqlSampleStore(database, NAME)
        start, stages = time.perf_counter(), Stages()
        run = _run(
            inference,
            database,
            inputs=inputs,
            config=config,
            chat_model=chat_model,
            samples=samples,
            progress=stages,
        )
        await run.run()
        ours_s, stages_s = time.perf_counter() - start, stages.seconds()
        engine_s = union_s((answer.start_s, answer.start_s + answer.total_s) for answer in await samples.answers())
        start = time.perf_counter()
        sample = chat_model.asked[::PEER_EVERY]
        for arm, messages in sample:
            await chat_model.generate(arm, messages, max_tokens=NEW_TOKENS)
        peer_s = (time.perf_counter() - start) * len(config.arms) * queries / len(sample)
    await database.close()
    return ours_s, engine_s, peer_s, stages_s


def _run(
    inference: InferenceServer,
    database: Database,
    *,
    inputs: EvaluationInputs,
    config: EvaluationConfig,
    chat_model: Recording,
    samples: SqlSampleStore,
    progress: Stages,
) -> EvaluationRun:
    """The evaluation as the worker runs it."""
    return EvaluationRun(
        name=NAME,
        tenant=server.TENANT,
        inputs=inputs,
        config=config,
        generator=Generator(
            chat_model=chat_model,
            samples=samples,
            clock=SystemClock(),
            concurrency=config.concurrency,
            max_tokens=NEW_TOKENS,
        ),
        samples=samples,
        blobs=inference.blobs,
        catalogue=SqlIndexCatalogue(database),
        models=Models(worker.load_embedder, worker.build_scorers),
        versions=worker.versions,
        progress=progress,
        shot_characters=240,
        accesses=EvaluationAccesses(SqlLedger(database)),
    )


def _inputs(inference: InferenceServer, revision: str, queries: int) -> EvaluationInputs:
    """Docstrings of numpy and scipy: the text of a function is the question, its first line the answer."""
    documented: dict[str, str] = {}
    for module in (np, np.linalg, np.ma, scipy.special):
        for name, found in vars(module).items():
            text = inspect.getdoc(found) if callable(found) else None
            if text and len(text) > 200 and text not in documented.values():  # aliases have the same text
                documented.setdefault(name, text)
    named = sorted(documented.items())[: queries + TRAIN_ROWS]
    # Groups of eight: too few for a final slice, so the whole holdout is used.
    rows = [_row(name, f"g{number // 8}", text) for number, (name, text) in enumerate(named)]
    if len(rows) < queries + TRAIN_ROWS:
        raise SystemExit(f"only {len(rows)} documented functions; {queries + TRAIN_ROWS} are needed")
    holdout, train = (
        inference.blobs.put_bytes("".join(part).encode()).sha256 for part in (rows[:queries], rows[queries:])
    )
    adapter = inference.trainer.revisions[revision]
    return EvaluationInputs(
        adapter_revision=revision,
        adapter_sha256=adapter.sha256,
        base_model=BASE,
        base_model_sha256=inference.base_sha256,
        dataset_revision="docs/r1",
        dataset_sha256="d" * 64,
        rows_sha256=holdout,
        train_sha256=train,
        trained_sha256=train,
    )


def _row(name: str, group: str, text: str) -> str:
    first, _, rest = text.partition("\n")
    messages = [
        {"role": "user", "content": f"Summarise in a line.\n{name}: {rest.strip()[:300]}"},
        {"role": "assistant", "content": first},
    ]
    return json.dumps({"id": name, "group": group, "label": None, "messages": messages}) + "\n"
