"""The vLLM plugin. vLLM calls `register` in every process that it starts (entry point group `vllm.general_plugins`)."""

from __future__ import annotations

import os
import select
import threading

CHILD_MARK = "LUTHIER_ENGINE_PROCESS"
"""Set by `vllm_engine` to the server's process id, only for the engine's process."""

WRAPPER = "luthierd.inference.engine.vllm_cpu_lora.punica.LuthierPunicaWrapper"


def register() -> None:
    """Makes the CPU platform use `LuthierPunicaWrapper`. Safe to call more than once; no effect on a GPU.

    In an engine's process it also makes the process end together with its server, however that ends.
    """
    if server := os.environ.pop(CHILD_MARK, ""):
        threading.Thread(target=_end_with, args=(int(server),), name="server-watch", daemon=True).start()
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    platform = type(current_platform)
    setattr(platform, "get_punica_wrapper", classmethod(lambda cls: WRAPPER))  # noqa: B010, mypy refuses assignment


def _end_with(server: int) -> None:
    """A server killed with SIGKILL cannot end its engine, which would keep its memory and cores forever.

    Watching the parent would not help: it is the fork server, which lives as long as any of its children.
    """
    try:
        descriptor = os.pidfd_open(server)
    except ProcessLookupError:
        os._exit(1)
    select.select([descriptor], [], [])
    os._exit(1)
