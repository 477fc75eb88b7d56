"""Explanations that are done, kept while a job runs: a killed run does not ask for them again.

One line each in a file of the job's kept folder; a line that a kill cut short is dropped.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from mistudio_core.artifacts.files import disk_errors
from mistudio_explain.config import Explanation, explanation_of, record_of

_NAMES = frozenset(f.name for f in fields(Explanation))


class ExplanationSpool:
    """The file, opened; `done` holds what it had and what was added, by feature."""

    def __init__(self, path: Path) -> None:
        """Takes up what is whole of the file. Raises DiskFull."""
        self._path = path
        self.done: dict[int, Explanation] = {}
        end = self._take_up()
        with disk_errors(path.parent, "explanations"):
            self._handle: BinaryIO = path.open("ab", buffering=0)
            self._handle.truncate(end)

    def _take_up(self) -> int:
        end = 0
        for line in self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or set(record) != _NAMES:
                break
            explanation = explanation_of(record)
            self.done[explanation.feature_id] = explanation
            end += len(line)
        return end

    def add(self, explanation: Explanation) -> None:
        """Keeps one. Raises DiskFull."""
        line = json.dumps(record_of(explanation)).encode() + b"\n"
        with disk_errors(self._path.parent, "explanations"):
            self._handle.write(line)
        self.done[explanation.feature_id] = explanation

    def close(self) -> None:
        """Ends writing."""
        self._handle.close()
