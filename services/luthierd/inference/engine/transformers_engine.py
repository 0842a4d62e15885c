"""Hugging Face transformers with PEFT behind the `Engine` Protocol: runs anywhere, and is the reference for parity.

One thread owns the model. Between two steps it runs jobs (load, unload, score, embed) and starts waiting answers; then
each cohort (answers of one adapter that began together) gets one token in turn. torch is imported at an engine's start.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import functools
import logging
import pathlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Structure
from luthierd.inference.domain.engine import Stage, StageClock
from luthierd.inference.domain.errors import (
    AdapterInvalidError,
    EngineDiedError,
    EngineStartError,
    HttpUnsupportedError,
    StructureUnsupportedError,
)
from luthierd.inference.engine.chat_templates import complete
from luthierd.inference.engine.engine import EngineAdapter, EngineDelta, EngineRequest, OpenAIApplication
from luthierd.inference.engine.platform_settings import cpu_dtype
from luthierd.inference.engine.tokenizing import Tokenizing, window_of

if TYPE_CHECKING:
    from luthierd.inference.engine.transformers_decoding import Cohort, Row
    from luthierd.inference.engine.transformers_model import LoraModel

log = logging.getLogger(__name__)

T = TypeVar("T")


async def start_transformers(folder: pathlib.Path, config: InferenceConfig) -> TransformersEngine:
    """Starts an engine on a base model's folder. EngineStartError."""
    try:
        return await asyncio.to_thread(_start, folder, config)
    except Exception as error:
        log.exception("transformers did not start")
        raise EngineStartError(
            f"transformers could not load the base model ({type(error).__name__}: {error})",
            metadata={"folder": folder.name},
        ) from error


def _start(folder: pathlib.Path, config: InferenceConfig) -> TransformersEngine:
    stages = StageClock()
    stages.reach("import")
    import torch
    import transformers

    from luthierd.inference.engine.transformers_model import LoraModel

    stages.reach("load")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if device == "cuda" else cpu_dtype()
    model = LoraModel(folder, dtype=getattr(torch, dtype), device=device)
    return TransformersEngine(
        model,
        max_num_seqs=config.max_num_seqs + config.spare_batch,
        max_rank=config.max_lora_rank,
        window=window_of(folder, config.max_model_len),
        version=f"transformers {transformers.__version__} ({device}, {dtype})",
        start_stages=stages.end(),
    )


class TransformersEngine(Tokenizing):
    """See `Engine`."""

    def __init__(
        self,
        model: LoraModel,
        *,
        max_num_seqs: int,
        max_rank: int,
        window: int,
        version: str,
        start_stages: tuple[Stage, ...] = (),
    ) -> None:
        super().__init__(complete(model.tokenizer))
        self.start_stages = start_stages
        self.cache_token_count = 0
        self.max_rank, self.window, self.version = max_rank, window, version
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.vocabulary_size = int(model.model.config.vocab_size)
        self._decoder = copy.deepcopy(model.tokenizer)  # for the thread: fast tokenizers reject two threads at a time
        self._thread = _ModelThread(model, max_num_seqs=max_num_seqs)

    async def check_structure(self, structure: Structure, *, tenant: str) -> None:
        raise StructureUnsupportedError(engine=self.version, field=structure.field)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        from luthierd.inference.engine.transformers_decoding import Row, TokenText

        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[EngineDelta | BaseException] = asyncio.Queue()

        def emit(delta: EngineDelta | BaseException) -> None:
            _in_loop(loop, lambda: deltas.put_nowait(delta))

        rows = [
            Row(
                prompt_ids=request.prompt_ids,
                sampling=request.sampling,
                adapter=_name(request.adapter),
                text=TokenText(self._decoder, request.sampling.stop),
                emit=emit,
                choice=choice,
            )
            for choice in range(request.sampling.choice_count)
        ]
        self._thread.begin(rows)
        unfinished = len(rows)
        try:
            while unfinished:
                delta = await deltas.get()
                if isinstance(delta, BaseException):
                    raise delta
                unfinished -= bool(delta.finish_reason)
                yield delta
        finally:
            for row in rows:
                row.is_cancelled = True

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
        tenant: str = "",
    ) -> tuple[float, ...]:
        return await self._thread.do(lambda model: model.score(_name(adapter), prompt_ids, completion_ids))

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        return tuple([await self._thread.do(functools.partial(_embed, _name(adapter), ids)) for ids in texts])

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """Reads the files in another thread; only injecting them delays other requests."""
        from luthierd.inference.engine.transformers_model import read_adapter

        config, tensors = await asyncio.to_thread(read_adapter, adapter.folder)
        name = f"a{adapter.number}"

        def load(model: LoraModel) -> None:
            try:
                model.load(name, config, tensors)
            except (ValueError, KeyError, RuntimeError, TypeError) as error:
                raise AdapterInvalidError(f"the engine rejects it: {error}", metadata={}) from error

        await self._thread.do(load)

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        await self._thread.do(lambda model: model.unload(f"a{adapter.number}"))

    async def openai_application(self) -> OpenAIApplication:
        raise HttpUnsupportedError(engine=self.version)

    async def wait_dead(self) -> None:
        """Returns when the thread has ended by an error."""
        await asyncio.wrap_future(self._thread.died)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.stop)


class _ModelThread:
    """The thread that owns the model. Public methods are called from the event loop's thread."""

    def __init__(self, model: LoraModel, *, max_num_seqs: int) -> None:
        self._model, self._max_num_seqs = model, max_num_seqs
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: list[Row] = []
        self._cohorts: list[Cohort] = []
        self._is_stopping = False
        self.died: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="transformers-engine", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[LoraModel], T]) -> T:
        """Runs `work` between two steps. EngineDiedError."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work(self._model))
                except Exception as error:
                    done.set_exception(error)

        self._put(run)
        result = asyncio.wrap_future(done)
        waits: set[asyncio.Future[Any]] = {result, asyncio.wrap_future(self.died)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise EngineDiedError
        return result.result()

    def begin(self, rows: Sequence[Row]) -> None:
        """Starts answers as soon as there is room. EngineDiedError."""
        self._put(lambda: self._waiting.extend(rows))

    def stop(self) -> None:
        self._is_stopping = True
        self._inbox.put(lambda: None)
        self._thread.join()

    def _put(self, job: Callable[[], None]) -> None:
        if self.died.done() or self._is_stopping:
            raise EngineDiedError
        self._inbox.put(job)

    def _run(self) -> None:
        import torch

        try:
            with torch.inference_mode():
                while not self._is_stopping:
                    self._read_inbox()
                    self._admit()
                    for cohort in self._cohorts:
                        cohort.step()
                    self._cohorts = [cohort for cohort in self._cohorts if cohort.rows]
        except BaseException:  # the boundary of this thread: after any error, no answer can be finished
            log.exception("the engine's thread died")
        finally:
            for row in (*self._waiting, *(row for cohort in self._cohorts for row in cohort.rows)):
                row.emit(EngineDiedError())
            if not self._is_stopping:
                self.died.set_result(None)

    def _read_inbox(self) -> None:
        """Runs the jobs in the inbox; waits for one if there is nothing to compute."""
        block = not (self._cohorts or self._waiting)
        while True:
            try:
                self._inbox.get(block=block)()
            except queue.Empty:
                return
            block = False

    def _admit(self) -> None:
        """Starts the rows that waited longest, together with others of the same adapter, while there is room."""
        from luthierd.inference.engine.transformers_decoding import Cohort

        self._waiting = [row for row in self._waiting if not row.is_cancelled]
        room = self._max_num_seqs - sum(len(cohort.rows) for cohort in self._cohorts)
        while self._waiting and room > 0:
            adapter = self._waiting[0].adapter
            rows = [row for row in self._waiting if row.adapter == adapter][:room]
            self._waiting = [row for row in self._waiting if row not in rows]
            self._cohorts.append(Cohort(self._model, rows))
            room -= len(rows)


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
    """Runs `call` in the loop, unless it is closed."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        log.debug("the event loop is closed")


def _name(adapter: EngineAdapter | None) -> str | None:
    """PEFT's name of an adapter: torch allows no dot, which `engine_name` has. None for the base model."""
    return None if adapter is None else f"a{adapter.number}"


def _embed(adapter: str | None, ids: tuple[int, ...], model: LoraModel) -> tuple[float, ...]:
    return model.embed(adapter, ids)
