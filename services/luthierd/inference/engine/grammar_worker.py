"""The process that compiles grammars to find out whether the engine could, under limits of time and memory."""

from __future__ import annotations

import math
import os
import random
import resource
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import xgrammar  # noqa: F401, preloaded for the processes that are forked from here
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.structured_output.request import get_structured_output_key

from luthierd.inference.engine.vllm_requests import first_line

MAX_CPU_S, MAX_PARSE_S, MAX_STEP_S = 2.0, 0.2, 0.05
"""Processor time to compile a grammar, to parse it, and to compute which tokens may come next. The engine compiles one
at a time, the server parses it in its event loop, and a step of the engine waits for the last.
"""
MAX_MEMORY_BYTES = 2**30
WALK_TOKENS = 256
"""Tokens of an answer that are tried: ambiguous grammars get slower with every token."""
TOO_EXPENSIVE = (
    f"to compile it takes more than {MAX_CPU_S:g} s or {MAX_MEMORY_BYTES // 2**20} MiB, or every token would be slow; "
    "simplify it: fewer nested repetitions, references and alternatives"
)


def serve(connection: Connection, config: Any) -> None:
    """Answers each of vLLM's parameters with the reason for a refusal; empty: the engine can compile them.

    Ends with its server, and by a signal (SIGXCPU) when a grammar takes far too long.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    os.environ |= {"VLLM_REGEX_COMPILATION_TIMEOUT_S": "0", "VLLM_XGRAMMAR_CACHE_MB": "32"}
    tokenizer = cached_tokenizer_from_config(model_config=config.model_config)
    backend = XgrammarBackend(config, tokenizer=tokenizer, vocab_size=config.model_config.get_vocab_size())
    _problem(StructuredOutputsParams(json_object=True), config, backend)  # imports what the first check needs
    limit = psutil.Process().memory_info().data + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    connection.send("")
    while True:
        try:
            parameters = connection.recv()
        except EOFError:
            return
        last_s = math.ceil(time.process_time() + MAX_CPU_S) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (last_s, resource.RLIM_INFINITY))
        connection.send(_problem(parameters, config, backend))


def _problem(parameters: Any, config: Any, backend: XgrammarBackend) -> str:
    began_s = time.process_time()
    try:
        SamplingParams(structured_outputs=parameters).verify(
            config.model_config, None, config.structured_outputs_config, backend.tokenizer
        )
        parsed_s = time.process_time() - began_s
        grammar = backend.compile_grammar(*get_structured_output_key(parameters))
        compiled_s = time.process_time() - began_s
        step_s = _slowest_step_s(grammar, backend)
    except (VLLMClientError, ValueError, RuntimeError, MemoryError, RecursionError) as error:
        return f"it cannot be compiled: {first_line(error):.300}"
    is_cheap = parsed_s <= MAX_PARSE_S and compiled_s <= MAX_CPU_S and step_s <= MAX_STEP_S
    return "" if is_cheap else TOO_EXPENSIVE


def _slowest_step_s(grammar: Any, backend: XgrammarBackend) -> float:
    """Of the first tokens of an answer that the grammar allows, drawn at random, without an early end."""
    mask, rng, slowest_s = backend.allocate_token_bitmask(1), random.Random(0), 0.0  # noqa: S311
    ends = backend.tokenizer.all_special_ids
    for _ in range(WALK_TOKENS):
        began_s = time.process_time()
        grammar.fill_bitmask(mask, 0)
        allowed = np.setdiff1d(np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")), ends)
        is_accepted = len(allowed) > 0 and grammar.accept_tokens("", [int(rng.choice(allowed))])
        slowest_s = max(slowest_s, time.process_time() - began_s)
        if not is_accepted or grammar.is_terminated() or slowest_s > MAX_STEP_S:
            break
    return slowest_s
