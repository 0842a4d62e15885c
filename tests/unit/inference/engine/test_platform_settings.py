"""What vLLM's processes get on this machine."""

from __future__ import annotations

import os

import pytest
from luthierd.inference.engine.platform_settings import cpu_dtype, cpu_environment


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("fpu avx2 sse4_2", "float32"), ("fpu avx512_bf16", "bfloat16"), ("amx_tile amx_bf16", "bfloat16")],
)
def test_bfloat16_is_for_cpus_that_compute_with_it(flags: str, dtype: str) -> None:
    assert cpu_dtype(f"processor : 0\nflags\t\t: {flags}\n") == dtype


def test_all_cores_are_bound_and_the_core_process_computes_by_itself() -> None:
    environment = cpu_environment(kv_cache_gib=3)
    assert environment["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_ranks_share_the_cores_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    environment = cpu_environment(kv_cache_gib=1, ranks=2)
    assert (environment["VLLM_CPU_OMP_THREADS_BIND"], environment["OMP_NUM_THREADS"]) == ("0,1|2,3", "2")
    assert "KMP_AFFINITY" not in environment
    assert cpu_environment(kv_cache_gib=1, ranks=6)["VLLM_CPU_OMP_THREADS_BIND"] == "0|1|2|3|4|0"


def test_a_preload_of_the_machine_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/opt/lib/libtcmalloc.so")
    environment = cpu_environment(kv_cache_gib=1)
    if "LD_PRELOAD" in environment:
        first, second = environment["LD_PRELOAD"].split(":")
        assert first.endswith("libiomp5.so")
        assert second == "/opt/lib/libtcmalloc.so"
