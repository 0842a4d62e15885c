"""The header of a safetensors file, read by the format's specification, without any of its numbers.

Format: 8 bytes with the header's length (little endian), the header as JSON, the numbers
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import pathlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_HEADER_BYTES = 16 * 1024 * 1024
WIDTH_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class HeaderInvalidError(ValueError):
    """The file is no safetensors file, or its header contradicts itself. The text says how."""


class TruncatedError(HeaderInvalidError):
    """The header names bytes that the file does not have."""


@dataclass(frozen=True)
class Tensor:
    """One entry. `offset_bytes` counts from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


def read_header(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors by name. HeaderInvalidError, TruncatedError."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < header_bytes <= MAX_HEADER_BYTES:
            raise HeaderInvalidError(f"{path.name} is not a safetensors file")
        if header_bytes > size_bytes - 8:
            raise TruncatedError(f"{path.name} ends within its header")
        try:
            header: Mapping[str, Any] = json.loads(file.read(header_bytes))
            entries = {
                name: _tensor(entry, 8 + header_bytes) for name, entry in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HeaderInvalidError(f"the header of {path.name} cannot be read ({error})") from error
    for name, tensor in entries.items():
        if tensor.offset_bytes < 8 + header_bytes or tensor.size_bytes < 0:
            raise HeaderInvalidError(f"tensor {name} lies outside of {path.name}")
        if tensor.offset_bytes + tensor.size_bytes > size_bytes:
            raise TruncatedError(f"tensor {name} lies beyond the end of {path.name}")
        if tensor.size_bytes != math.prod(tensor.shape) * WIDTH_BYTES.get(tensor.dtype, 1):
            raise HeaderInvalidError(f"tensor {name} of {path.name} has another size than its shape")
    return entries


def _tensor(entry: Mapping[str, Any], data_offset: int) -> Tensor:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    return Tensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), data_offset + begin, end - begin)
