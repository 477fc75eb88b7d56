"""Reads a `features` artifact a page or a feature at a time, without reading the rest.

Layout: outputs.py. What is read is verified when it is first read, 64 MiB at a time.
Records come back as they were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from mistudio_core.errors import Corrupt, NotFound
from mistudio_find.outputs import INDEX_FILE, LINES_FILE


class PathGetter(Protocol):
    """What is needed of an artifact: `ArtifactReader` is one."""

    def path(self, name: str) -> Path:
        """Path of a file, verified."""
        ...

    def chunks(self, name: str, offset: int = 0, chunk_bytes: int = 1024 * 1024) -> Iterator[tuple[int, bytes]]:
        """(position, bytes) from `offset` on, verified."""
        ...


def parsed(line: bytes) -> dict[str, Any]:
    """A record from its line. Raises Corrupt."""
    try:
        record = orjson.loads(line)
    except ValueError as error:
        raise Corrupt("A record of the analysis cannot be read. Run the Find job again.") from error
    if not isinstance(record, dict):
        raise Corrupt("A record of the analysis cannot be read. Run the Find job again.")
    return record


class FeaturePages:
    """The features of a completed analysis, most coherent first. Safe to share between threads."""

    def __init__(self, artifact: PathGetter) -> None:
        """Opens the index. Raises Corrupt."""
        index = np.frombuffer(artifact.path(INDEX_FILE).read_bytes(), "<i8")
        self._artifact = artifact
        total = int(index[0]) if len(index) else -1
        if total < 0 or len(index) != 2 + 2 * total:
            raise Corrupt("The index of the analysis is inconsistent. Run the Find job again.")
        self._offsets = index[1 : 2 + total]
        self._ranks = index[2 + total :]

    @property
    def total(self) -> int:
        """Number of features, dead ones included."""
        return len(self._ranks)

    def page(self, start: int, count: int) -> list[dict[str, Any]]:
        """Records of the ranks start..start+count-1; fewer at the end, none behind it."""
        first = max(0, start)
        return list(self.records(range(first, min(self.total, first + max(0, count)))))

    def records(self, ranks: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Records of some ranks, in the given order, each read when it is its turn."""
        for rank in ranks:
            yield parsed(self._read(int(self._offsets[rank]), int(self._offsets[rank + 1])))

    def feature(self, feature_id: int) -> dict[str, Any]:
        """The record of one feature. Raises NotFound (FEATURE_NOT_FOUND)."""
        if not 0 <= feature_id < self.total:
            raise NotFound(
                f"There is no feature {feature_id}; the analysis has features 0 to {self.total - 1}.",
                reason="FEATURE_NOT_FOUND",
                facts={"feature_id": feature_id, "total_features": self.total},
            )
        return self.page(int(self._ranks[feature_id]), 1)[0]

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end:
            found = next(self._artifact.chunks(LINES_FILE, start, end - start), None)
            if found is None:
                raise Corrupt("The index of the analysis is inconsistent. Run the Find job again.")
            parts.append(found[1])
            start += len(found[1])
        return b"".join(parts)
