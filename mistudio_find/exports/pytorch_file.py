"""PyTorch: a `.pt` file with a dict of plain tensors and nothing else, the columns of `columns.py`.

Written without torch, as they stream: a zip of raw storages and the instructions that name them, in the
layout that `torch.save` writes (torch/serialization.py, torch/csrc/jit/serialization) and that
`torch.load(weights_only=True)` reads, also memory-mapped.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_find.exports.columns import Column, pieces

_ROOT = "feature_analysis"
_STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LARGE = 0xFFFFFFFF


def write_columns(columns: Sequence[Column], _metadata: Mapping[str, Any], path: Path) -> None:
    """Writes the file. OSError passes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _member(archive, "data.pkl", [_instructions(columns)], 0)
        _member(archive, "byteorder", [b"little"], 0)
        for number, column in enumerate(columns):
            size = np.dtype(column.dtype).itemsize * math.prod(column.shape)
            _member(archive, f"data/{number}", pieces(column), size)
        _member(archive, "version", [b"3\n"], 0)


def _member(archive: zipfile.ZipFile, name: str, parts: Iterable[bytes], size: int) -> None:
    """One stored member whose bytes begin at a multiple of 64, as readers that map the file like it."""
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", _EPOCH)
    info.file_size = size
    large = size >= _LARGE
    handle = archive.fp
    if handle is None:
        raise ValueError("the archive is open")
    begins = handle.tell() + _LOCAL_HEADER + len(info.filename) + 4 + (20 if large else 0)
    filler = -begins % _ALIGNMENT
    info.extra = b"FB" + filler.to_bytes(2, "little") + b"Z" * filler
    with archive.open(info, "w", force_zip64=large) as target:
        for part in parts:
            target.write(part)


def _instructions(columns: Sequence[Column]) -> bytes:
    """`data.pkl`: {name: _rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())}, protocol 2."""
    body = b"".join(_text(c.name) + _tensor(number, c) for number, c in enumerate(columns))
    return b"\x80\x02}(" + body + b"u."


def _tensor(number: int, column: Column) -> bytes:
    shape = column.shape
    strides = [max(1, math.prod(shape[i + 1 :])) for i in range(len(shape))]
    storage = (
        b"(" + _text("storage") + b"ctorch\n" + _STORAGES[column.dtype].encode() + b"\n"
        + _text(str(number)) + _text("cpu") + _number(math.prod(shape)) + b"tQ"
    )  # fmt: skip
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + _tuple(shape) + _tuple(strides)
        + b"\x89" + empty + b"tR"
    )  # fmt: skip


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _number(value: int) -> bytes:
    """An integer of any size (LONG1)."""
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
