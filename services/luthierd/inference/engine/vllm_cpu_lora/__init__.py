"""vLLM plugin: right and fast LoRA answers on a CPU.

Stock vLLM 0.32 gathers ``weights[slot]`` for each token. A request without an adapter has slot -1, so in a mixed
batch it silently gets the *last* slot's adapter (vllm 48421, 49656, open), and the gather copies a whole matrix per
token. vLLM calls `register` in every process that it starts (entry point group ``vllm.general_plugins``); it swaps
the class that applies adapters for `punica.LuthierPunicaWrapper`. On any platform but the CPU it changes nothing.
"""

from __future__ import annotations

import os
import select
import threading

CHILD_MARK = "LUTHIER_ENGINE_PROCESS"
"""`vllm_engine` sets it to the server's process id, for the engine's process only."""

WRAPPER = "luthierd.inference.engine.vllm_cpu_lora.punica.LuthierPunicaWrapper"


def register() -> None:
    """Makes the CPU platform use `LuthierPunicaWrapper`. Safe to call more than once; no effect on a GPU.

    In an engine's process it also sees to it that the process ends with its server, whatever the server died of.
    """
    if server := os.environ.pop(CHILD_MARK, ""):
        threading.Thread(target=_end_with, args=(int(server),), name="server-watch", daemon=True).start()
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    platform = type(current_platform)
    setattr(platform, "get_punica_wrapper", classmethod(lambda cls: WRAPPER))  # noqa: B010, mypy refuses assignment


def _end_with(server: int) -> None:
    """A server killed with SIGKILL cannot end its engine, which would keep its memory and cores for ever.

    The parent's end would not tell: it is the fork server, which lives as long as any of its children.
    """
    try:
        descriptor = os.pidfd_open(server)
    except ProcessLookupError:
        os._exit(1)
    select.select([descriptor], [], [])
    os._exit(1)
