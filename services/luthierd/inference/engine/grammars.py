"""The check of grammars, before the engine compiles them.

A hostile grammar takes minutes to compile, fills the memory, crashes the compiler or is slow with every token. In the
engine it would hold up all tenants, so a worker process compiles it first, under limits (`grammar_worker`).
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import multiprocessing
import weakref
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import Structure
from luthierd.inference.engine.vllm_requests import first_line, structured_outputs

WORKER = "luthierd.inference.engine.grammar_worker"
MAX_WAIT_S = 30.0
"""Wall time of a check, whose processor time is far shorter."""
MAX_KNOWN = 4096
"""Grammars that are remembered as good."""


def _check_keywords(schema: Any, path: str = "#") -> None:
    """InvalidArgumentError's description of the innermost part that xgrammar would not hold an answer to, if any."""
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    if not has_xgrammar_unsupported_json_features(schema):
        return
    for name, value in schema.items():
        for index, part in enumerate(value) if isinstance(value, list) else [("", value)]:
            _check_keywords(part, f"{path}/{name}" + (f"/{index}" if index != "" else ""))
    words = ", ".join(sorted(map(str, schema)))
    raise ValueError(f"answers cannot be held to {path:.200}, which combines {words:.200}; simplify it")


class Grammars:
    """Checks grammars for an engine, one at a time, tenants in turn. Used in one event loop."""

    def __init__(self, vllm_config: Any) -> None:
        self._config = vllm_config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._known: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._worker: tuple[Any, Connection] | None = None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([WORKER])  # without effect if the engine's own fork server runs
        forkserver.ensure_running()

    async def check(self, structure: Structure, *, tenant: str) -> None:
        """InvalidArgumentError, of `structure.field`, if the engine could not hold an answer to it at little cost."""
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import check_json_nesting

        try:
            for schema in structure.schemas:
                check_json_nesting(schema)
                if structure.is_exact:
                    _check_keywords(json.loads(schema))
            parameters = structured_outputs(structure)
        except (VLLMClientError, ValueError) as error:
            raise InvalidArgumentError.of_field(structure.field, first_line(error)) from error
        key = hashlib.sha256(repr(parameters).encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._known:
            turn = self._turns.setdefault(tenant, asyncio.Lock())
            async with turn:
                problem = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, parameters)
            if problem:
                raise InvalidArgumentError.of_field(structure.field, problem)
        self._known[key] = None
        self._known.move_to_end(key)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _ask(self, parameters: Any) -> str:
        """Why the grammar is refused; empty: it is not."""
        from luthierd.inference.engine.grammar_worker import TOO_EXPENSIVE

        if self._worker is None:
            self._worker = self._start()
        connection = self._worker[1]
        try:
            connection.send(parameters)
            if connection.poll(MAX_WAIT_S):
                return str(connection.recv())
        except (EOFError, OSError):  # it ended at its limit of processor time, or crashed
            pass
        self._end()
        return TOO_EXPENSIVE

    def _start(self) -> tuple[Any, Connection]:
        """A worker that is ready. EOFError if it cannot start."""
        from luthierd.inference.engine.grammar_worker import serve

        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._config), name="grammars", daemon=True)
        process.start()
        theirs.close()
        ours.recv()
        return process, ours

    def _end(self) -> None:
        if self._worker is not None:
            process, connection = self._worker
            self._worker = None
            connection.close()
            process.kill()
            process.join()

    def close(self) -> None:
        """Ends the worker. Blocks."""
        self._thread.submit(self._end).result()
        self._thread.shutdown()
