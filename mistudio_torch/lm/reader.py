"""Reads single tensors out of safetensors files, each once, straight into the memory they stay in.

Nothing is mapped: what is not asked for is not read, and the bytes that were are counted. Where
tensors go and what they mean is `load`'s business.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor

from mistudio_torch.lm.facts import read_header

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PART = 64 << 20
"""Bytes of one read: between two of them a cancel is noticed."""


class StoredTensor:
    """A tensor that is still in its file; `[...]` reads it, as transformers does with a safetensors slice."""

    def __init__(self, reader: TensorReader, path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        """Of `path`, from byte `offset` on."""
        self._reader, self._path, self._offset = reader, path, offset
        self._dtype, self._shape = dtype, shape

    def __getitem__(self, _everything: EllipsisType) -> Tensor:
        """The tensor, read into memory of its own. Raises ValueError for a file that ends too early."""
        tensor = torch.empty(self._shape, dtype=_DTYPES[self._dtype])
        if tensor.numel():
            self._reader.fill(tensor, self._path, self._offset)
        return tensor

    def get_shape(self) -> list[int]:
        """Its shape."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """Its dtype as safetensors names it."""
        return self._dtype


class TensorReader:
    """Counts what is read of a model's files; may be used from several threads."""

    def __init__(self, watch: Callable[[], None] | None = None) -> None:
        """`watch` is called between reads and may raise."""
        self.bytes_read = 0
        self.tensors_read = 0
        self._watch = watch
        self._lock = threading.Lock()

    def tensors(self, path: Path, wanted: Callable[[str], bool]) -> dict[str, StoredTensor]:
        """The wanted tensors of a file; only its header is read. Raises ValueError for a damaged one."""
        header = read_header(path)
        entries = json.loads(header)
        start, size = 8 + len(header), path.stat().st_size
        names = (name for name in entries if name != "__metadata__" and wanted(name))
        return {name: StoredTensor(self, path, *_entry(path.name, name, entries[name], start, size)) for name in names}

    def fill(self, tensor: Tensor, path: Path, offset: int) -> None:
        """Fills a contiguous CPU tensor from a file."""
        view = tensor.view(-1).view(torch.uint8).numpy().data
        with path.open("rb", buffering=0) as handle:
            done = 0
            while done < len(view):
                if self._watch is not None:
                    self._watch()
                count = os.preadv(handle.fileno(), [view[done : done + _PART]], offset + done)
                if count <= 0:
                    raise ValueError(f"{path.name} ends before its tensors do")
                done += count
        with self._lock:
            self.bytes_read += done
            self.tensors_read += 1


def _entry(
    file: str, name: str, entry: Mapping[str, object], start: int, size: int
) -> tuple[str, tuple[int, ...], int]:
    """One tensor of a header: dtype, shape, place in the file. Raises ValueError where it lies about itself."""
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES:
        raise ValueError(f"{name} in {file} has the number format {dtype}, which is not read")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{name} in {file} has no shape or place")
    count = torch.Size(shape).numel() * _DTYPES[str(dtype)].itemsize
    first, last = (int(n) for n in offsets)
    if min(shape, default=0) < 0 or first < 0 or last - first != count:
        raise ValueError(f"{name} in {file} is not as long as its shape says")
    if start + last > size:
        raise ValueError(f"{file} ends before its tensors do")
    return str(dtype), tuple(shape), start + first
