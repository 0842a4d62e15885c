"""A process that has imported vLLM, from which vLLM's engine core is forked. Does not import vLLM itself.

Importing vLLM takes 23 s of a core on a small machine, once in the server and again in a spawned engine process. A fork
server imports it once, at the same time as the server: an engine starts in 34 s instead of 51 s, and after a crash in
9 s (measured, 2 cores). For CPUs only: a CUDA context does not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

PRELOADS = [
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.executor.uniproc_executor",
    "luthierd.inference.engine.vllm_scheduler",
    "luthierd.inference.engine.vllm_worker",
    "luthierd.inference.engine.grammar_worker",
]


def warm_context(environment: Mapping[str, str]) -> BaseContext:
    """A multiprocessing context whose processes are forked from one with `environment` that has imported vLLM.

    Returns at once; the first process waits for the import. This process can use only one environment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADS)
    with variables(environment):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables while the block runs, for processes started in it."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
