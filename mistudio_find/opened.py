"""Analyses opened for queries.

Knows artifacts, not jobs. A page token is bound here to what it continues.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mistudio_core.artifacts import ArtifactReader, ArtifactStore, OpenArtifacts
from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_find.pages import FeaturePages
from mistudio_find.table import TABLE_FILE, FeatureTable

MOST_OPEN = 32
"""Analyses that are kept open; each holds its index and a connection, a few MB."""
_DEEPEST = 10_000_000


@dataclass(frozen=True, slots=True)
class Opened:
    """One analysis."""

    pages: FeaturePages
    """Its records."""
    table: FeatureTable | None
    """Its query table; None for an analysis that was written without one."""

    def queries(self) -> FeatureTable:
        """Its query table. Raises Unsupported."""
        if self.table is None:
            raise Unsupported(
                "filter, order_by and search on this analysis",
                why="it was written without a query table",
                instead="Run the Find job again, or leave filter and order_by empty.",
            )
        return self.table


class OpenAnalyses(OpenArtifacts[Opened]):
    """Opened `features` artifacts."""

    def __init__(self, store: ArtifactStore, most: int = MOST_OPEN) -> None:
        """Opens from `store`; keeps `most` of them."""
        super().__init__(store, _opened, most)


def _opened(reader: ArtifactReader) -> Opened:
    """Raises Corrupt."""
    has_table = any(file.name == TABLE_FILE for file in reader.record.files)
    table = FeatureTable(reader.path(TABLE_FILE)) if has_table else None
    return Opened(FeaturePages(reader), table)


def binding(*parts: str) -> str:
    """What a page token belongs to, as 16 hex digits."""
    body = b"".join(len(part.encode()).to_bytes(8) + part.encode() for part in parts)
    return hashlib.sha256(body).hexdigest()[:16]


def page_token(start: int, bound: str) -> str:
    """The token of the page that begins at `start`."""
    return f"{start}.{bound}"


def page_start(token: str, bound: str, same: str) -> int:
    """Where the page of a token begins; `same` says in words what must not change. Raises InvalidInput."""
    if not token:
        return 0
    start, _, given = token.partition(".")
    if not (start.isascii() and start.isdecimal() and int(start[:12]) <= _DEEPEST and len(given) == len(bound)):
        raise InvalidInput.field("page_token", token, "the next_page_token of an earlier page, or nothing")
    if given != bound:
        raise InvalidInput.field(
            "page_token",
            token,
            f"a token of the same {same}",
            "Send them as for the page before, or leave page_token empty to begin again.",
        )
    return int(start)
