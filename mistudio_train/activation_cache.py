"""Activations of training documents on the disk, so that the second epoch needs no model.

One file of float32 rows for each hook, in the order of the documents, and a checksum for each
document. What an attempt wrote before it was killed is used by the next one; a document whose
rows are missing or damaged is harvested again. Numpy and torch's `from_numpy` alone.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mistudio_core.errors import DiskFull
from mistudio_torch.tokenised import Array

_ROW_BYTES = 4
_ABSENT = 0


class ActivationCache:
    """See the module. Rows of a document are its real tokens, as `Run.activations` gives them."""

    def __init__(self, folder: Path, widths: Mapping[str, int], real_tokens: Array, documents: Array) -> None:
        """Opens or makes the files for `documents` of a corpus; all the disk that they take is taken now.

        `widths` is hook name -> width. Raises DiskFull with what is needed and what is free.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tokens_D = np.zeros(len(real_tokens), np.int64)
        tokens_D[documents] = real_tokens[documents]
        self._start_D = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens_D)])
        rows = int(self._start_D[-1])
        _reserve(folder, size_of(widths, real_tokens, documents))
        self._rows = {
            name: np.memmap(_sized(folder / f"{at}.f32", rows * width), np.float32, "r+", shape=(rows, width))
            for at, (name, width) in enumerate(sorted(widths.items()))
        }
        sums = _sized(folder / "checksums.u32", len(real_tokens))
        self._sum_D = np.memmap(sums, np.uint32, "r+", shape=(len(real_tokens),))

    def holds(self, documents: Array) -> bool:
        """Whether every one of `documents` was written."""
        return bool((self._sum_D[documents] != _ABSENT).all())

    def write(self, documents: Array, activations: Mapping[str, Tensor]) -> None:
        """Keeps the rows of `documents`, in their order."""
        at = 0
        for document in documents.tolist():
            first, last = self._start_D[document : document + 2].tolist()
            for name, rows in self._rows.items():
                rows[first:last] = activations[name][at : at + last - first].numpy()
            self._sum_D[document] = self._checksum(first, last)
            at += last - first

    def read(self, documents: Array) -> dict[str, Tensor] | None:
        """Hook name -> x_ND of `documents`, in their order; None where one of them is missing or damaged."""
        spans = [tuple(self._start_D[d : d + 2].tolist()) for d in documents.tolist()]
        for document, (first, last) in zip(documents.tolist(), spans, strict=True):
            if self._sum_D[document] == _ABSENT or self._sum_D[document] != self._checksum(first, last):
                self._sum_D[document] = _ABSENT
                return None
        return {
            name: torch.from_numpy(np.concatenate([rows[first:last] for first, last in spans]))
            for name, rows in self._rows.items()
        }

    def _checksum(self, first: int, last: int) -> int:
        """CRC-32 over the rows of every hook, never the mark of an absent document."""
        found = 0
        for rows in self._rows.values():
            found = zlib.crc32(np.ascontiguousarray(rows[first:last]).view(np.uint8).reshape(-1).data, found)
        return max(found, _ABSENT + 1)


def size_of(widths: Mapping[str, int], real_tokens: Array, documents: Array) -> int:
    """Bytes that the rows of `documents` take: 4 for each token and dimension of each hook."""
    return int(real_tokens[documents].sum()) * sum(widths.values()) * _ROW_BYTES


def _reserve(folder: Path, wanted: int) -> None:
    """Raises DiskFull where what is not there yet does not fit."""
    there = sum(f.stat().st_blocks * 512 for f in folder.glob("*.f32"))
    free = shutil.disk_usage(folder).free
    if wanted - there > free:
        raise DiskFull(
            f"The activation cache takes {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Free the rest, or "
            "start the job without cache_activations: activations are then harvested again each epoch.",
        )


def _sized(path: Path, values: int) -> Path:
    """The file with room for so many 4-byte values, really taken from the disk."""
    with path.open("ab") as handle:
        if values:
            os.posix_fallocate(handle.fileno(), 0, values * _ROW_BYTES)
    return path
