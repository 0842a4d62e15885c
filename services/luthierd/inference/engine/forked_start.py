"""A warm process for vLLM's engine core to be forked from. No vLLM here.

Importing vLLM takes 23 s of a core on a small machine, once in the server and once more in a spawned engine process. A
fork server imports it at the same time as the server does, and again never: an engine starts in 34 s instead of 51 s,
and after a crash in 9 s (measured, 2 cores). Only for CPUs: a CUDA context does not survive a fork.
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
]


def warm_context(environment: Mapping[str, str]) -> BaseContext:
    """A multiprocessing context whose processes are forked from one that has `environment` and has imported vLLM.

    Returns at once; the first process waits for the import. One environment for the life of this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADS)
    with variables(environment):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Environment variables while the block runs: for processes that are started in it."""
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
