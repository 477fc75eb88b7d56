"""A completed analysis as exports read it: its records one after the other, and what its job says.

Knows the `features` artifact's layout through pages.py and outputs.py; holds one block of lines at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mistudio_core.errors import Corrupt
from mistudio_find.exports.schema import complete
from mistudio_find.outputs import ANALYSIS_FILE, LINES_FILE
from mistudio_find.pages import FeaturePages, PathGetter, parsed

BLOCK_BYTES = 8 * 1024 * 1024
"""About so many bytes of records are held at a time."""
_HEAD = '{"job_metadata":'
_MAX_HEAD_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Analysis:
    """What an export is made from."""

    features: PathGetter
    """The `features` artifact."""
    codes: PathGetter | None = None
    """The `codes` artifact that it was made from, where the form needs it."""

    @cached_property
    def total(self) -> int:
        """Number of features, dead ones included. Raises Corrupt."""
        return FeaturePages(self.features).total

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """`job_metadata` of the published form. Raises Corrupt."""
        with self.features.path(ANALYSIS_FILE).open("rb") as handle:
            head = handle.readline(_MAX_HEAD_BYTES).decode("utf-8", "replace")
        try:
            found = json.JSONDecoder().raw_decode(head, len(_HEAD) * head.startswith(_HEAD))[0]
            return dict(found)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{ANALYSIS_FILE} does not begin with its job. Run the Find job again.") from error

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the analysis comes from: layer, hook_name, sae_sha256, corpus_sha256, as far as known."""
        return dict(self.metadata.get("lineage", {}))

    @cached_property
    def created_at(self) -> datetime:
        """When the job was started, from its id; 1970 for a job without one."""
        parts = str(self.metadata.get("job_id", "")).split("_")
        try:
            return datetime.strptime("".join(parts[1:3]), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            return datetime.fromtimestamp(0, UTC)

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[list[bytes]]:
        """Lines of records, most coherent first, about `size` bytes at a time. Raises Corrupt where some lack."""
        found = 0
        with self.path(LINES_FILE).open("rb") as handle:
            while lines := handle.readlines(size):
                found += len(lines)
                yield lines
        if found != self.total:
            raise Corrupt("The records and the index of the analysis disagree. Run the Find job again.")

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Records with every field of the contract, most coherent first. Raises Corrupt."""
        for lines in self.blocks():
            for line in lines:
                yield complete(parsed(line))

    def path(self, name: str) -> Path:
        """A verified file of the `features` artifact."""
        return self.features.path(name)
