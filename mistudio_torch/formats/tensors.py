"""Named tensors in a file: their names, number formats and shapes are checked before anything is allocated.

Reads safetensors and npz; a header that lies about the file is refused. Knows no SAE.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistudio_core.errors import InvalidInput, LimitReached, MistudioError
from mistudio_core.hostmemory import available_bytes

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Number formats of weights and their bytes."""
_WHOLE = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES = {**FLOATS, **_WHOLE}
_NPY = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32"}
_MAX_HEADER_BYTES = 1 << 20
_MAX_TENSORS = 1000
_MAX_SIDE = 1 << 24
"""Longest side of a tensor: 16.7 million features."""
_UNPACKED = 4
"""Times a packed file may grow; weights hardly shrink when packed."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a header says of one tensor."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    """Sides."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return _SIZES[self.dtype] * math.prod(self.shape)


class StoredTensors:
    """The tensors of one file by name; nothing is read but the header until `take`."""

    def __init__(
        self, file: str, specs: Mapping[str, Spec], load: Callable[[Collection[str]], dict[str, Tensor]]
    ) -> None:
        """`file` for messages; `load` reads the named ones."""
        self.file, self.specs = file, dict(specs)
        self._load = load

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def side(self, name: str, axis: int, dimensions: int = 1) -> int:
        """Length of one side. Raises InvalidInput where there is no such tensor or it has other dimensions."""
        spec = self.specs.get(name)
        if spec is None or len(spec.shape) != dimensions:
            shown = "missing" if spec is None else f"of shape {list(spec.shape)}"
            raise broken(self.file, f"its tensor {name} is {shown}; it must have {dimensions} dimension(s)")
        return spec.shape[axis]

    def take(self, wanted: Mapping[str, tuple[int, ...]], *, whole: Collection[str] = ()) -> dict[str, Tensor]:
        """Exactly the wanted tensors, of these shapes, in the file's number format, all finite.

        `whole` names those that hold integers. Raises InvalidInput for missing, further and misshapen tensors,
        other number formats, NaN and infinity; LimitReached where memory does not hold them.
        """
        self._check_names(wanted)
        for name, shape in wanted.items():
            self._check(name, shape, whole=name in whole)
        need = sum(self.specs[name].size_bytes + 4 * math.prod(shape) for name, shape in wanted.items())
        free = available_bytes()
        if need > free:
            raise LimitReached(
                f"{self.file}: reading it takes {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
                "Use a machine with more memory.",
                reason="INSUFFICIENT_MEMORY",
                facts={"needed_bytes": need, "free_bytes": free},
            )
        tensors = self._load(wanted)
        for name, tensor in tensors.items():
            if name not in whole and not bool(tensor.isfinite().all()):
                raise broken(self.file, f"its tensor {name} holds NaN or infinity")
        return tensors

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor as it is, unchecked."""
        return self._load(self.specs)

    def dtype_of(self, name: str) -> str:
        """Number format of a tensor that is there."""
        return self.specs[name].dtype

    def _check_names(self, wanted: Collection[str]) -> None:
        missing, further = sorted(set(wanted) - set(self.specs)), sorted(set(self.specs) - set(wanted))
        if missing or further:
            parts = [f"it lacks {', '.join(missing)}"] if missing else []
            parts += [f"it has {', '.join(further[:8])} beside"] if further else []
            raise broken(self.file, f"{' and '.join(parts)}; expected are exactly {', '.join(sorted(wanted))}")

    def _check(self, name: str, shape: tuple[int, ...], *, whole: bool) -> None:
        spec = self.specs[name]
        if spec.shape != shape:
            turned = " (it may be transposed; nothing is turned by guess)" if spec.shape == shape[::-1] else ""
            raise broken(self.file, f"its tensor {name} has shape {list(spec.shape)}, expected {list(shape)}{turned}")
        allowed = _WHOLE if whole else FLOATS
        if spec.dtype not in allowed:
            raise broken(self.file, f"its tensor {name} is {spec.dtype}; allowed are {', '.join(allowed)}")


def broken(file: str, why: str) -> InvalidInput:
    """The error for a file that cannot be used as it is."""
    return InvalidInput(
        f"{file} cannot be used: {why}. Nothing was imported. Get the file again, or check that it is in the format.",
        facts={"file": file, "why": why},
    )


def open_safetensors(path: Path) -> StoredTensors:
    """The tensors of a safetensors file. Raises InvalidInput for a header that is broken or does not fit the file.

    Layout: 8-byte little-endian header length, JSON header, data without gaps.
    """
    specs = dict(safetensors_specs(path))

    def load(names: Collection[str]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with _readable(path.name), safe_open(path, framework="pt", device="cpu") as handle:
            return {name: handle.get_tensor(name) for name in names}

    return StoredTensors(path.name, specs, load)


def safetensors_specs(path: Path) -> Iterator[tuple[str, Spec]]:
    """(name, spec) of each tensor; the data of all fill the file exactly."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise broken(path.name, f"its header claims {length:,} bytes of a file of {size:,}")
        text = handle.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        found = sorted(
            (*_span(entry), name, Spec(str(entry["dtype"]), tuple(entry["shape"]))) for name, entry in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(path.name, "its header is no list of tensors") from error
    if not found or len(found) > _MAX_TENSORS:
        raise broken(path.name, f"it has {len(found)} tensors; an SAE has 1 to {_MAX_TENSORS}")
    at = 0
    for first, last, name, spec in found:
        _check_sides(path.name, name, spec)
        if first != at or last - first != spec.size_bytes:
            raise broken(path.name, f"its header lies about where the data of {name} are or how long they are")
        at = last
    if at != size - 8 - length:
        raise broken(path.name, f"its header announces {at:,} bytes of data and {size - 8 - length:,} are there")
    yield from ((name, spec) for _, _, name, spec in found)


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    first, last = entry["data_offsets"]
    if not (isinstance(first, int) and isinstance(last, int)):
        raise TypeError
    return first, last


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _check_sides(file: str, name: str, spec: Spec) -> None:
    if spec.dtype not in _SIZES:
        raise broken(file, f"its tensor {name[:80]} is {spec.dtype[:20]}; allowed are {', '.join(_SIZES)}")
    if len(spec.shape) > 4 or not all(type(s) is int and 1 <= s <= _MAX_SIDE for s in spec.shape):
        raise broken(
            file, f"its tensor {name[:80]} has shape {str(list(spec.shape))[:80]}; sides are 1 to {_MAX_SIDE:,}"
        )


def open_npz(path: Path) -> StoredTensors:
    """The arrays of an npz file. Raises InvalidInput for objects, and for headers that do not fit their members."""
    specs: dict[str, Spec] = {}
    with _readable(path.name), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked, most = sum(m.file_size for m in members), _UNPACKED * path.stat().st_size + (1 << 20)
        if unpacked > most or len(members) > _MAX_TENSORS:
            raise broken(
                path.name, f"it unpacks to {unpacked:,} bytes in {len(members)} members; at most {most:,} are read"
            )
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in specs:
                raise broken(path.name, f"it has {name[:80]} twice")
            with archive.open(member) as handle:
                spec, header = _npy_header(handle, path.name, name)
            _check_sides(path.name, name, spec)
            if header + spec.size_bytes != member.file_size:
                raise broken(path.name, f"the header of {name[:80]} does not fit its {member.file_size:,} bytes")
            specs[name] = spec

    def load(names: Collection[str]) -> dict[str, Tensor]:
        import torch

        with _readable(path.name), np.load(path, allow_pickle=False) as data:
            return {name: torch.from_numpy(np.ascontiguousarray(data[name])) for name in names}

    return StoredTensors(path.name, specs, load)


def _npy_header(handle: Any, file: str, name: str) -> tuple[Spec, int]:
    """(spec, bytes before the data) of one member."""
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(handle)
    code = f"{dtype.kind}{dtype.itemsize}"
    if code not in _NPY or dtype.byteorder == ">":
        raise broken(file, f"its array {name[:80]} is {str(dtype)[:40]}; allowed are {', '.join(_NPY)}, little-endian")
    return Spec(_NPY[code], tuple(int(s) for s in shape)), int(handle.tell())


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Whatever a library says about a damaged file is our refusal."""
    try:
        yield
    except (MistudioError, MemoryError):
        raise
    except Exception as error:
        raise broken(file, f"it cannot be read ({type(error).__name__})") from error
