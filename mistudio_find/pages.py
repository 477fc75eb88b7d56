"""Reads a `features` artifact a page or a feature at a time, without reading the rest.

Layout: outputs.py. Files are verified when first opened. Records come back as they were written.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mistudio_core.errors import Corrupt, NotFound
from mistudio_find.outputs import INDEX_FILE, LINES_FILE


class PathGetter(Protocol):
    """What is needed of an artifact: `ArtifactReader` is one."""

    def path(self, name: str) -> Path:
        """Path of a file, verified."""
        ...


class FeaturePages:
    """The features of a completed analysis, most coherent first. Safe to share between threads."""

    def __init__(self, artifact: PathGetter) -> None:
        """Opens the index. Raises Corrupt."""
        index = np.frombuffer(artifact.path(INDEX_FILE).read_bytes(), "<i8")
        self._lines = artifact.path(LINES_FILE)
        total = int(index[0]) if len(index) else -1
        if total < 0 or len(index) != 2 + 2 * total or index[1 + total] != self._lines.stat().st_size:
            raise Corrupt("The index of the analysis is inconsistent. Run the Find job again.")
        self._offsets = index[1 : 2 + total]
        self._ranks = index[2 + total :]

    @property
    def total(self) -> int:
        """Number of features, dead ones included."""
        return len(self._ranks)

    def page(self, start: int, count: int) -> list[dict[str, Any]]:
        """Records of the ranks start..start+count-1; fewer at the end, none behind it."""
        offsets = self._offsets[max(0, start) : max(0, start) + max(0, count) + 1].tolist()
        if len(offsets) < 2:
            return []
        with self._lines.open("rb") as handle:
            handle.seek(offsets[0])
            block = handle.read(offsets[-1] - offsets[0])
        return [self._parse(block[a - offsets[0] : b - offsets[0]]) for a, b in pairwise(offsets)]

    def feature(self, feature_id: int) -> dict[str, Any]:
        """The record of one feature. Raises NotFound (FEATURE_NOT_FOUND)."""
        if not 0 <= feature_id < self.total:
            raise NotFound(
                f"There is no feature {feature_id}; the analysis has features 0 to {self.total - 1}.",
                reason="FEATURE_NOT_FOUND",
                facts={"feature_id": feature_id, "total_features": self.total},
            )
        return self.page(int(self._ranks[feature_id]), 1)[0]

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise Corrupt("A record of the analysis cannot be read. Run the Find job again.") from error
        if not isinstance(record, dict):
            raise Corrupt("A record of the analysis cannot be read. Run the Find job again.")
        return record
