"""Streams of the base model: our gRPC server compared with `vllm serve` over HTTP, alternating in one run.

A round is 16 concurrent streams of up to 64 new tokens. Both sides get the same prompts and decode greedily, so they
generate the same tokens. The peer runs twice: with our threads and OpenMP runtime, and with its defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

import aiohttp
from luthier import AsyncClient
from luthierd.inference.engine.platform_settings import cpu_dtype, cpu_environment
from luthierd.inference.engine.vllm_engine import QUIET
from support.inference_server import BASE
from support.ports import free_port

from benchmarks import results, server

STREAMS, NEW_TOKENS = 16, 64
START_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Stream:
    """Timings of one stream."""

    ttft_s: float
    token_count: int


@dataclass(frozen=True)
class Round:
    """The results of one round."""

    tokens_per_s: float
    ttft_p50_s: float


Ask = Callable[[str], Awaitable[Stream]]


def measure(model: pathlib.Path, folder: pathlib.Path, *, rounds: int) -> Iterator[dict[str, object]]:
    """Two results per peer: tokens/s and time to first token."""
    peers = {
        "vllm serve with the same threads": cpu_environment(kv_cache_gib=1),
        "vllm serve as it starts by itself": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    }
    with server.running(folder / "streams", model) as inference, contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(_vllm_serve(model, environment)) for name, environment in peers.items()}
        seen = asyncio.run(_rounds(server.client(inference), ports, rounds=rounds))
    for name in peers:
        for figure, target in (("tokens_per_s", ">= 1.0"), ("ttft_p50_s", "<= 1.0")):
            pairs = [(getattr(a, figure), getattr(b, figure)) for a, b in zip(seen["ours"], seen[name], strict=True)]
            name_of_ratio = f"{figure}: our gRPC stream / {name}, HTTP stream"
            yield results.ratio("streams", name_of_ratio, pairs, target=target)


@contextlib.contextmanager
def _vllm_serve(model: pathlib.Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Stock vLLM's server; yields its port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--served-model-name",
        "base",
        "--dtype",
        cpu_dtype(),
        "--enforce-eager",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--max-model-len",
        "2048",
        "--max-num-seqs",
        "32",
        "--gpu-memory-utilization",
        "0.3",
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, **QUIET, "VLLM_PLUGINS": "", **environment}, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"vllm serve did not start (exit code {process.poll()})")
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def _rounds(client: AsyncClient, ports: Mapping[str, int], *, rounds: int) -> dict[str, list[Round]]:
    async with client, aiohttp.ClientSession() as http:

        def peer(port: int) -> Ask:
            return lambda question: _ask_peer(http, port, question)

        asks: dict[str, Ask] = {"ours": lambda question: _ask_ours(client, question)}
        asks |= {name: peer(port) for name, port in ports.items()}
        seen: dict[str, list[Round]] = {name: [] for name in asks}
        for number in range(rounds + 1):
            for name, ask in asks.items():
                figures = await _round(ask, number)
                if number:  # the first round warms up
                    seen[name].append(figures)
        return seen


async def _round(ask: Ask, number: int) -> Round:
    questions = [f"{number}.{index}. Explain at length what a moving average is." for index in range(STREAMS)]
    start = time.perf_counter()
    streams = await asyncio.gather(*map(ask, questions))
    seconds = time.perf_counter() - start
    tokens = sum(stream.token_count for stream in streams)
    return Round(tokens / seconds, statistics.median(stream.ttft_s for stream in streams))


async def _ask_ours(client: AsyncClient, question: str) -> Stream:
    start, ttft_s, token_count = time.perf_counter(), 0.0, 0
    async for message in client.inference.chat_stream(BASE, question, max_tokens=NEW_TOKENS, temperature=0.0):
        ttft_s = ttft_s or time.perf_counter() - start
        if message.HasField("finish"):
            token_count = message.finish.completion_token_count
    return Stream(ttft_s, token_count)


async def _ask_peer(http: aiohttp.ClientSession, port: int, question: str) -> Stream:
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, ttft_s, token_count = time.perf_counter(), 0.0, 0
    async with http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            ttft_s = ttft_s or time.perf_counter() - start
            if usage := json.loads(line[6:]).get("usage"):
                token_count = usage["completion_tokens"]
    return Stream(ttft_s, token_count)
