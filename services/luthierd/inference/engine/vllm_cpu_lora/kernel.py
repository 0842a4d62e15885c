"""Compiles and calls `kernel.cpp`. Without a C++ compiler there is no kernel, and `adapters` does the same in torch.

The library is stored in the user's cache folder under a digest of its source, the compiler and the processor, so it is
compiled once (two seconds), and a home folder shared between machines holds one for each type of machine.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from luthierd.inference.engine.vllm_cpu_lora.rows import Group

log = logging.getLogger(__name__)

SOURCE = pathlib.Path(__file__).with_name("kernel.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_TIMEOUT_S = 120.0

MAX_SLICES = 8
DTYPES = (torch.float32, torch.bfloat16)


class _Module(ctypes.Structure):
    """`LuthierModule` of kernel.cpp."""

    _fields_ = (
        ("slice_count", ctypes.c_int32),
        ("rank_max", ctypes.c_int32),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64 * MAX_SLICES),
        ("b_outputs", ctypes.c_int64 * MAX_SLICES),
        ("a", ctypes.c_void_p * MAX_SLICES),
        ("b", ctypes.c_void_p * MAX_SLICES),
    )


class _Rows(ctypes.Structure):
    """`LuthierRows` of kernel.cpp."""

    _fields_ = (
        ("group_count", ctypes.c_int32),
        ("order", ctypes.c_void_p),
        ("begins", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
    )


class KernelRows:
    """A step's groups in the kernel's data layout."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.count = len(groups)
        self._order = np.array([row for group in groups for row in group.rows], dtype=np.int32)
        self._begins = np.cumsum([0, *(len(group.rows) for group in groups)], dtype=np.int32)
        self._slots = np.array([group.slot for group in groups], dtype=np.int32)
        self.fields = _Rows(self.count, self._order.ctypes.data, self._begins.ctypes.data, self._slots.ctypes.data)
        self.reference = ctypes.byref(self.fields)


class KernelModule:
    """One module's weights in the kernel's data layout: `a` slices of [S, 1, R, I], `b` of [S, 1, O, R]; kept alive."""

    def __init__(self, a: Sequence[Tensor], b: Sequence[Tensor], widths: Sequence[int]) -> None:
        self._sources = (*a, *b)
        self.is_bf16 = a[0].dtype is torch.bfloat16
        self.scratch_groups = 0
        """Number of groups for which the kernel's scratch memory suffices."""
        self.fields = _Module(slice_count=len(a), rank_max=a[0].shape[-2], inputs=a[0].shape[-1])
        for index, (down, up, width) in enumerate(zip(a, b, widths, strict=True)):
            self.fields.outputs[index], self.fields.b_outputs[index] = width, up.shape[-2]
            self.fields.a[index], self.fields.b[index] = down.data_ptr(), up.data_ptr()
        self.reference = ctypes.byref(self.fields)

    @staticmethod
    def takes(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
        """Whether the kernel can read these."""
        alike = all(t.is_contiguous() and t.dtype == a[0].dtype and t.device.type == "cpu" for t in (*a, *b))
        same_shape = all(t.shape == a[0].shape for t in a) and all(t.shape[-1] == a[0].shape[-2] for t in b)
        return alike and same_shape and a[0].dtype in DTYPES and len(a) <= MAX_SLICES


class Kernel:
    """The compiled library. One call at a time: calls share scratch memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._add, self._rank, self._scratch_floats = library.luthier_add, library.luthier_rank, library.luthier_scratch
        self._add.restype = None
        rows_of = (ctypes.c_void_p, ctypes.c_int64)  # address and stride
        pointers = (ctypes.c_void_p,) * 3
        self._add.argtypes = (*pointers, *rows_of, *rows_of, ctypes.c_float, ctypes.c_int32, ctypes.c_void_p)
        self._rank.restype = ctypes.c_int32
        self._rank.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, ctypes.c_int32)
        self._scratch_floats.restype = ctypes.c_int64
        self._scratch_floats.argtypes = (ctypes.c_void_p, ctypes.c_int32)
        self._scratch = torch.empty(0)

    def rank(self, a_S1RI: Tensor, slot: int) -> int:
        """Rows of the slot's A up to the last with a nonzero value."""
        rank_max, inputs = a_S1RI.shape[-2:]
        return int(self._rank(a_S1RI.data_ptr(), a_S1RI.element_size(), rank_max, inputs, slot))

    def add(
        self, module: KernelModule, rows: KernelRows, ranks: int, *, x_TI: Tensor, y_TO: Tensor, scale: float
    ) -> None:
        """Adds the adapters' part to `y_TO`. `ranks`: address of int32 [slice, group]. Rows are contiguous."""
        if rows.count > module.scratch_groups:
            module.scratch_groups = rows.count
            floats = self._scratch_floats(module.reference, rows.count)
            if self._scratch.numel() < floats:
                self._scratch = torch.empty(floats)
        self._add(
            module.reference,
            rows.reference,
            ranks,
            x_TI.data_ptr(),
            x_TI.stride(0),
            y_TO.data_ptr(),
            y_TO.stride(0),
            scale,
            module.is_bf16,
            self._scratch.data_ptr(),
        )


@functools.cache
def load_kernel() -> Kernel | None:
    """The kernel, compiled if necessary; None, with a warning in the log, if that is not possible."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        log.warning("no C++ compiler: adapters are applied in torch, more slowly", extra={"tried": COMPILERS})
        return None
    try:
        return Kernel(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        log.warning(
            "the adapter kernel could not be compiled: adapters are applied in torch", extra={"detail": detail[-500:]}
        )
        return None


def _compiled(compiler: str) -> pathlib.Path:
    """The library's path. Only this user may write to its folder: it is code that will run."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "luthier" / "kernels"
    library = cache / f"{_digest(compiler)}.so"
    if library.exists() and library.stat().st_uid == os.getuid():
        return library
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = pathlib.Path(folder) / "kernel.so"
        command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)  # noqa: S603, ours
        made.replace(library)
    return library


def _digest(compiler: str) -> str:
    command = [compiler, "--version"]
    version = subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S).stdout  # noqa: S603
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, platform.machine().encode(), _cpu_flags())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _cpu_flags() -> bytes:
    """What `-march=native` depends on."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
