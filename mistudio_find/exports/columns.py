"""The records as flat columns on disk: what the tensor forms (PyTorch, safetensors) hold.

One rule: a field's column has its dotted name; a list adds `NAME.offsets`, int64 (n + 1,), where row i holds
entries offsets[i] to offsets[i + 1]; a text is its UTF-8 bytes, with offsets; an enum is its number in the
contract. In addition the figures that people compute with stand padded as `NAME.padded`, (features, longest),
-1 or NaN where a row is shorter. Columns grow in scratch files, so that memory does not grow with features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.exports.schema import FEATURE, Field

PADDED = (
    "activation_statistics.histogram_edges",
    "activation_statistics.histogram_counts",
    "top_activations.activation_strength",
    "top_activations.document",
    "top_activations.position",
)
"""Columns of one list a feature that are given padded as well."""
_DTYPES = {"bool": "uint8", "int32": "int32", "int64": "int64", "float": "float32", "double": "float64"}
_PAD_ROWS = 4096


@dataclass(slots=True)
class Column:
    """One column."""

    name: str
    """Its dotted name."""
    dtype: str
    """Its numpy type; `bool` is one byte each."""
    path: Path
    """Raw little-endian values."""
    shape: tuple[int, ...] = (0,)
    """Shape once it is complete."""

    def open(self) -> Array:
        """The values, memory-mapped read-only."""
        storage = "uint8" if self.dtype == "bool" else self.dtype
        if 0 in self.shape:
            return np.zeros(self.shape, storage)
        return np.memmap(self.path, storage, "r", shape=self.shape)


class ColumnFiles:
    """Columns that grow in a folder, block by block."""

    def __init__(self, folder: Path) -> None:
        """`folder` is empty and the caller's to remove."""
        self._folder = folder
        self._columns: dict[str, Column] = {}
        self._handles: dict[str, BinaryIO] = {}
        self._ends: dict[str, int] = {}
        self._longest: dict[str, int] = {}
        self._stack = ExitStack()

        for field in FEATURE:
            self._begin(field.name, field)

    def add(self, table: Any) -> None:
        """The next records."""
        for field, column in zip(FEATURE, table.columns, strict=True):
            for chunk in column.chunks:
                self._add(field.name, field, chunk)

    def close(self) -> None:
        """Ends the columns."""
        self._stack.close()

    def columns(self) -> list[Column]:
        """Every column by name, once they are closed."""
        for name in PADDED:
            if f"{name}.padded" not in self._columns:
                self._pad(name)
        return [self._columns[name] for name in sorted(self._columns)]

    def _begin(self, name: str, field: Field) -> None:
        """Makes the columns of a field, so that they are there for no features as well."""
        if field.repeated:
            self._offsets(name, [], 0)
        if field.kind == "message":
            for inner in field.fields:
                self._begin(f"{name}.{inner.name}", inner)
        elif field.kind in ("string", "enum") and not field.values:
            self._offsets(f"{name}.text" if field.repeated else name, [], 0)
            self._append(name, np.zeros(0, np.uint8))
        else:
            self._append(name, np.zeros(0, "uint8" if field.values else _DTYPES[field.kind]), field.kind == "bool")

    def _add(self, name: str, field: Field, array: Any) -> None:
        """Appends a block of a field."""
        if field.repeated:
            self._offsets(name, _lengths(array), len(array))
            array = array.flatten()
        if field.kind == "message":
            for inner, values in zip(field.fields, array.flatten(), strict=True):
                self._add(f"{name}.{inner.name}", inner, values)
        elif field.values:
            self._append(name, _enum_numbers(array, field))
        elif field.kind == "string":
            self._text(name, array, nested=field.repeated)
        else:
            self._append(name, _plain(array, field), field.kind == "bool")

    def _text(self, name: str, array: Any, *, nested: bool) -> None:
        """UTF-8 bytes; inside of a list the bytes' own offsets are `NAME.text.offsets`."""
        import pyarrow.compute as pc

        lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
        self._offsets(f"{name}.text" if nested else name, lengths, len(array))
        start, data = array.offset, array.buffers()
        if data[2] is None or not len(array):
            return
        offsets = np.frombuffer(data[1], np.int32, len(array) + 1, start * 4)
        self._append(name, np.frombuffer(data[2], np.uint8)[offsets[0] : offsets[-1]])

    def _offsets(self, name: str, lengths: Any, rows: int) -> None:
        full, end = f"{name}.offsets", self._ends.get(name)
        if end is None:
            self._append(full, np.zeros(1, np.int64))
            end = 0
        if rows:
            ends = np.cumsum(lengths, dtype=np.int64) + end
            self._append(full, ends)
            self._longest[name] = max(self._longest.get(name, 0), int(np.max(lengths)))
            end = int(ends[-1])
        self._ends[name] = end

    def _append(self, name: str, values: Array, boolean: bool = False) -> None:
        column = self._columns.get(name)
        if column is None:
            dtype = "bool" if boolean else str(values.dtype)
            column = Column(name, dtype, self._folder / f"{len(self._columns):03d}")
            self._columns[name] = column
            self._handles[name] = self._stack.enter_context(column.path.open("wb"))
        self._handles[name].write(np.ascontiguousarray(values).data)
        column.shape = (column.shape[0] + len(values),)

    def _pad(self, name: str) -> None:
        """(features, longest) from a flat column and the offsets of its list."""
        owner = name if f"{name}.offsets" in self._columns else name.rpartition(".")[0]
        flat, offsets = self._columns[name].open(), self._columns[f"{owner}.offsets"].open()
        rows, width = len(offsets) - 1, self._longest.get(owner, 0)
        empty = np.nan if flat.dtype.kind == "f" else -1
        path = self._folder / f"{len(self._columns):03d}"
        with path.open("wb") as handle:
            for first in range(0, rows, _PAD_ROWS):
                part = np.asarray(offsets[first : first + _PAD_ROWS + 1])
                lengths = np.diff(part)
                padded = np.full((len(lengths), width), empty, flat.dtype)
                padded[np.arange(width) < lengths[:, None]] = flat[part[0] : part[-1]]
                handle.write(padded.data)
        self._columns[f"{name}.padded"] = Column(f"{name}.padded", str(flat.dtype), path, (rows, width))


def _lengths(array: Any) -> Array:
    """Entries of each list; none for a list that a record lacks."""
    import pyarrow.compute as pc

    lengths: Array = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return lengths


def _plain(array: Any, field: Field) -> Array:
    """Numbers and flags; what a record lacks is the contract's default, NaN where that is nothing."""
    import pyarrow.compute as pc

    default = float("nan") if field.optional else field.default()
    values = pc.fill_null(array, default) if array.null_count else array
    found: Array = values.to_numpy(zero_copy_only=False).astype(_DTYPES[field.kind], copy=False)
    return found


def _enum_numbers(array: Any, field: Field) -> Array:
    """uint8: numbers in the contract; 0 for a name that it does not have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: Array = (
        pc.fill_null(pc.index_in(array, pa.array(field.values)), 0).to_numpy(zero_copy_only=False).astype(np.uint8)
    )
    return found


def pieces(column: Column, size: int = 16 * 1024 * 1024) -> Iterator[bytes]:
    """The raw bytes of a column, a piece at a time."""
    if 0 in column.shape:
        return
    with column.path.open("rb") as handle:
        while piece := handle.read(size):
            yield piece
