"""vLLM's `AsyncLLM` behind the `Engine` Protocol. Imports vLLM when an engine starts, in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import pathlib
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple

import psutil

from luthierd.errors import InvalidArgumentError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling, Structure
from luthierd.inference.domain.engine import Stage, StageClock
from luthierd.inference.domain.errors import (
    AdapterInvalidError,
    EmbedUnsupportedError,
    EngineDiedError,
    EngineStartError,
)
from luthierd.inference.engine.chat_templates import complete
from luthierd.inference.engine.engine import EngineAdapter, EngineDelta, EngineRequest, OpenAIApplication
from luthierd.inference.engine.forked_start import variables, warm_context
from luthierd.inference.engine.grammars import Grammars
from luthierd.inference.engine.platform_settings import cpu_dtype, cpu_environment, uses_gpu
from luthierd.inference.engine.slices import (
    BACKGROUND,
    EMBEDDED_AS,
    SCORED_FROM,
    TENANT,
    WORKER_EXTENSION,
    scheduler_name,
)
from luthierd.inference.engine.tokenizing import Tokenizing, window_of
from luthierd.inference.engine.vllm_cpu_lora.plugin import CHILD_MARK
from luthierd.inference.engine.vllm_openai import openai_application
from luthierd.inference.engine.vllm_requests import first_line, lora_request, sampling_parameters, token_logprobs

log = logging.getLogger(__name__)

DEATH_POLL_S = 0.25
SLOW_GRAMMAR = "it became too slow while it was followed (an ambiguous grammar does, with every token); simplify it"
"""The scheduler ended the request."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}
"""vLLM contacts no hub, sends no usage statistics, and logs no user text."""


async def start_vllm(folder: pathlib.Path, config: InferenceConfig) -> VllmEngine:
    """Starts an engine on a base model's folder; takes about half a minute on a CPU. EngineStartError."""
    try:
        llm, stages = await _in_daemon_thread(lambda: _start(folder, config))
        engine = VllmEngine(llm, config, folder, stages)
        try:
            await llm.collective_rpc("read_what_is_asked")
        except BaseException:
            await engine.close()
            raise
    except Exception as error:
        log.exception("vLLM did not start")
        raise EngineStartError(
            f"vLLM could not start ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "the log has the engine's own lines",
            metadata={"folder": folder.name},
        ) from error
    return engine


class Started(NamedTuple):
    """VLLM's `AsyncLLM`, and the stages of its start."""

    llm: Any
    stages: tuple[Stage, ...]


async def _in_daemon_thread(start: Callable[[], Started]) -> Started:
    """Like `asyncio.to_thread`, but a server that stops does not wait for it.

    An engine whose start is no longer awaited is shut down as soon as it runs.
    """
    started: concurrent.futures.Future[Started] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = start()
        except Exception as error:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                started.set_exception(error)
            return
        try:
            started.set_result(result)
        except concurrent.futures.InvalidStateError:  # cancelled
            result.llm.shutdown()

    threading.Thread(target=run, name="engine-start", daemon=True).start()
    return await asyncio.wrap_future(started)


def _start(folder: pathlib.Path, config: InferenceConfig) -> Started:
    """Imports vLLM, starts its processes and waits until the model is loaded."""
    stages = StageClock()
    stages.reach("import")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    on_gpu = uses_gpu()
    mark, environment, context = {CHILD_MARK: str(os.getpid())}, dict[str, str](), None
    if not on_gpu:
        ranks = config.tensor_parallel * config.pipeline_parallel
        environment = cpu_environment(kv_cache_gib=config.kv_cache_gib, ranks=ranks)
        context = warm_context({**environment, **mark, **QUIET, "VLLM_WORKER_MULTIPROC_METHOD": "spawn"})
    with variables(environment):
        import vllm.v1.engine.utils as process_launch
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from luthierd.inference.engine.vllm_stats import SchedulerGauges

        stages.reach("configure")
        arguments = AsyncEngineArgs(**_arguments(folder, config, on_gpu=on_gpu))
        engine_config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        engine_config.parallel_config.worker_extension_cls = WORKER_EXTENSION
        # Structural tags, which hold calls of tools and white space, need xgrammar. With "auto", the first structured
        # request would choose the library for all others, whatever these were checked for.
        engine_config.structured_outputs_config.backend = "xgrammar"
        scheduling = engine_config.scheduler_config
        scheduling.scheduler_cls = scheduler_name(is_async=scheduling.async_scheduling)
        if context is not None:
            process_launch.get_mp_context = lambda: context
        with variables(mark):
            stages.reach("processes")
            # With our own logger and none of vLLM's, it keeps the times of requests.
            llm = AsyncLLM.from_vllm_config(engine_config, stat_loggers=[SchedulerGauges], disable_log_stats=True)
            return Started(llm, _split_last(stages.end(), llm))


def _split_last(stages: tuple[Stage, ...], llm: Any) -> tuple[Stage, ...]:
    """Splits the last stage: the wait for a process that has imported vLLM, and the work of that process."""
    *others, last = stages
    processes = llm.engine_core.resources.engine_manager.processes
    age_s = max(time.time() - psutil.Process(one.pid).create_time() for one in processes)
    ready_s = min(age_s, last.duration_s)
    return (*others, Stage("fork", last.duration_s - ready_s), Stage("ready", ready_s))


def _arguments(folder: pathlib.Path, config: InferenceConfig, *, on_gpu: bool) -> dict[str, Any]:
    executor = None if config.distributed_executor == "auto" else config.distributed_executor
    return {
        "model": str(folder),
        "dtype": config.dtype if config.dtype != "auto" or on_gpu else cpu_dtype(),
        "max_model_len": window_of(folder, config.max_model_len),
        "max_num_seqs": config.max_num_seqs + config.spare_batch,
        "gpu_memory_utilization": config.gpu_memory_utilization or (0.9 if on_gpu else 0.3),
        "enforce_eager": config.enforce_eager,
        "tensor_parallel_size": config.tensor_parallel,
        "pipeline_parallel_size": config.pipeline_parallel,
        "distributed_executor_backend": executor,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_loras": config.max_loras,
        # vLLM must never evict one itself, and requires at least as many as fit into a batch
        "max_cpu_loras": max(config.max_cpu_loras + 1, config.max_loras),
        "max_lora_rank": config.max_lora_rank,
        "enable_log_requests": False,
        "enable_logging_iteration_details": True,  # for our metrics
        "disable_log_stats": True,
    }


class VllmEngine(Tokenizing):
    """See `Engine`. Created in the event loop that uses it."""

    def __init__(
        self, llm: Any, config: InferenceConfig, folder: pathlib.Path, start_stages: tuple[Stage, ...] = ()
    ) -> None:
        import vllm
        from vllm.platforms import current_platform

        super().__init__(complete(llm.get_tokenizer()))
        cache = llm.vllm_config.cache_config
        self.cache_token_count = int(cache.num_gpu_blocks or 0) * int(cache.block_size)
        self._grammars = Grammars(llm.vllm_config)
        self.llm, self._folder, self._config, self.start_stages = llm, folder, config, start_stages
        self.max_rank = config.max_lora_rank
        self.window = int(llm.model_config.max_model_len)
        self.vocabulary_size = int(llm.model_config.get_vocab_size())
        self.dtype = str(llm.model_config.dtype).removeprefix("torch.")
        self.version = f"vllm {vllm.__version__} ({current_platform.device_type}, {self.dtype})"
        llm._run_output_handler()  # it was constructed outside of the event loop

    async def check_structure(self, structure: Structure, *, tenant: str) -> None:
        await self._grammars.check(structure, tenant=tenant)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        began = time.monotonic()
        parameters = sampling_parameters(request.sampling, request.tenant)
        async with contextlib.aclosing(self._outputs(request, parameters)) as outputs:
            async for output in outputs:
                scheduled = output.metrics.scheduled_ts if output.metrics else 0.0
                for completion in output.outputs:
                    if completion.finish_reason == "error" and request.sampling.structure:
                        raise InvalidArgumentError.of_field(request.sampling.structure.field, SLOW_GRAMMAR)
                    yield EngineDelta(
                        text=completion.text,
                        token_count=len(completion.token_ids),
                        finish_reason=completion.finish_reason or "",
                        choice=completion.index,
                        logprobs=token_logprobs(completion, request.sampling.top_logprob_count),
                        cached_prompt_token_count=output.num_cached_tokens or 0,
                        queue_s=max(scheduled - began, 0.0),
                    )

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
        tenant: str = "",
    ) -> tuple[float, ...]:
        """In the background: a slice of the prompt in each step."""
        from vllm import SamplingParams

        tokens = (*prompt_ids, *completion_ids)
        request = EngineRequest(
            request_id=uuid.uuid4().hex,
            prompt_ids=tokens,
            sampling=Sampling(),
            adapter=adapter,
            cache_salt=f"luthier:probe:{uuid.uuid4().hex}",
        )
        marks = {BACKGROUND: is_background, SCORED_FROM: len(prompt_ids), TENANT: tenant}
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, extra_args=marks)
        outputs = [output async for output in self._outputs(request, parameters)]
        scored = outputs[-1].prompt_logprobs
        return tuple(
            float(scored[position][tokens[position]].logprob) for position in range(len(prompt_ids), len(tokens))
        )

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        """One after the other, because they have one slot. The workers keep each text's embedding until it is taken."""
        return tuple([await self._embed(ids, adapter) for ids in texts])

    async def _embed(self, token_ids: tuple[int, ...], adapter: EngineAdapter | None) -> tuple[float, ...]:
        from vllm import SamplingParams

        key = uuid.uuid4().hex
        request = EngineRequest(
            request_id=key,
            prompt_ids=token_ids,
            sampling=Sampling(),
            adapter=adapter,
            cache_salt=f"luthier:embed:{key}",  # a cached prefix would have no states
        )
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, extra_args={EMBEDDED_AS: key})
        async for _ in self._outputs(request, parameters):
            pass
        found = await self.llm.collective_rpc("take_embedding", args=(key,))
        embedding = next((one for one in found if one), None)
        if embedding is None:
            raise EmbedUnsupportedError(engine=self.version)
        return tuple(embedding)

    async def _outputs(self, request: EngineRequest, parameters: Any) -> AsyncGenerator[Any, None]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        llm = self.llm  # kept: `close` forgets it while streams of a dead engine still end
        prompt = tokens_input(list(request.prompt_ids), cache_salt=request.cache_salt)
        lora = lora_request(request.adapter)
        made = llm.generate(prompt, parameters, request.request_id, lora_request=lora)
        is_finished = False
        try:
            async with contextlib.aclosing(made):  # closing it tells vLLM to stop
                async for output in made:
                    is_finished = output.finished
                    yield output
        except VLLMClientError as error:
            raise InvalidArgumentError(f"the engine rejects the request: {first_line(error)}") from error
        except (EngineDeadError, EngineGenerateError) as error:
            if llm.errored:
                raise EngineDiedError from error
            raise
        finally:
            if not is_finished and self.llm is not None and not llm.errored:
                # vLLM does not abort a request whose call is cancelled while it is being handed over
                await llm.abort(request.request_id)

    async def openai_application(self) -> OpenAIApplication:
        return await openai_application(self.llm, self._folder, tool_call_parser=self._config.tool_call_parser)

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self.llm
        try:
            await llm.add_lora(lora_request(adapter))
        except EngineDeadError as error:
            raise EngineDiedError from error
        except Exception as error:
            if llm.errored:
                raise EngineDiedError from error
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise AdapterInvalidError(f"the engine rejects it: {reason}", metadata={"detail": reason}) from error

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self.llm.remove_lora(adapter.number)
        except EngineDeadError as error:
            raise EngineDiedError from error

    async def wait_dead(self) -> None:
        """VLLM notices the end of its process in a thread and sets a flag; there is nothing to await."""
        while self.llm is not None and not self.llm.errored:  # noqa: ASYNC110
            await asyncio.sleep(DEATH_POLL_S)

    async def close(self) -> None:
        llm, self.llm = self.llm, None  # its __del__ must run while its modules are loaded
        if llm is not None:
            await asyncio.to_thread(self._grammars.close)
            await asyncio.to_thread(llm.shutdown)
