"""Safetensors files written and read with numpy alone, memory-mapped both ways.

Layout: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header,
raw data). Owns bytes and shapes, not what the tensors mean. Bytes are a function of the content:
fixed key order, no time, no metadata.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import Corrupt

_NAMES = {
    "int64": "I64",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float16": "F16",
    "uint16": "U16",
    "uint8": "U8",
}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _NAMES.items()}
_MAX_HEADER_BYTES = 1 << 20

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; shapes and types stand in the docstrings."""


def create(path: Path, specs: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Array]:
    """Makes a file for tensors of known (dtype, shape) and maps each for writing.

    Tensors lie in order of falling item size and rising name, so that each is aligned. Zero-size
    tensors come back as plain empty arrays. OSError passes.
    """
    order = sorted(specs, key=lambda name: (-np.dtype(specs[name][0]).itemsize, name))
    header: dict[str, object] = {}
    offset = 0
    for name in order:
        dtype, shape = specs[name]
        size = np.dtype(dtype).itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    body = json.dumps(header, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    with path.open("wb") as handle:
        handle.write(len(body).to_bytes(8, "little") + body)
        handle.truncate(8 + len(body) + offset)
    return _map(path, header, 8 + len(body), "r+")


def open_tensors(path: Path) -> dict[str, Array]:
    """Maps every tensor of a file read-only. Raises Corrupt for what is no such file."""
    try:
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, _MAX_HEADER_BYTES)))
        return _map(path, header, 8 + length, "r")
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path.name} of the codes artifact cannot be read. Run its training job again.") from error


def _map(path: Path, header: Mapping[str, Any], base: int, mode: Any) -> dict[str, Array]:
    """One memory map a tensor."""
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        if math.prod(shape) == 0:
            tensors[name] = np.zeros(shape, dtype)
            continue
        tensors[name] = np.memmap(path, dtype=dtype, mode=mode, offset=base + entry["data_offsets"][0], shape=shape)
    return tensors


def finish(tensors: Mapping[str, Array]) -> None:
    """Hands mapped writes to the operating system and lets go of their pages; fsync is the artifact store's."""
    for tensor in tensors.values():
        if isinstance(tensor, np.memmap):
            tensor.flush()
            let_go(tensor)


def let_go(mapped: Array) -> None:
    """Drops the pages that a memory map has touched from this process; they are read again when needed."""
    memory = getattr(mapped, "_mmap", None)
    if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)
