"""Reads the records of an analysis while its worker writes them: the tail of a spool.

The spool (outputs.py) has a record a line, in order of feature id. It may be cut at its end or begin anew
when a killed run goes on; ids say what was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

SPOOLS = "*/features*.spool"
"""Where spools stand under a job's scratch folder."""
_BATCH_BYTES = 1 << 20


class SpoolTail:
    """A reader's place in the spool of a running job; holds no file open."""

    def __init__(self, folder: Path, after: int) -> None:
        """Records of features after index `after`, from the spools under a job's scratch folder."""
        self._folder = folder
        self._path: Path | None = None
        self._at = 0
        self.last = after

    def read(self) -> list[dict[str, Any]]:
        """Records that were not read before, at most about a megabyte of them or one; none where nothing is new."""
        try:
            block = self._next_block()
        except OSError:  # the job ended, or its attempt: its files are gone
            self._path = None
            return []
        found = []
        for line in block.splitlines():
            try:
                record = orjson.loads(line)
            except ValueError:  # a line that a killed writer left; the next one writes it again
                continue
            feature = record["feature_id"]
            if feature > self.last:
                self.last = feature
                found.append(record)
        return found

    def _next_block(self) -> bytes:
        """Whole lines from where the last call ended."""
        newest = max(self._folder.glob(SPOOLS), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            return b""
        size = newest.stat().st_size
        if newest != self._path or size < self._at:
            self._path, self._at = newest, 0
        with newest.open("rb") as handle:
            handle.seek(self._at)
            block = handle.read(_BATCH_BYTES)
            whole = block.rfind(b"\n") + 1
            while not whole and block and (more := handle.read(_BATCH_BYTES)):
                block += more
                whole = block.rfind(b"\n") + 1
        self._at += whole
        return block[:whole]
