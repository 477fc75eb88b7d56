"""Full-text search over several analyses: each ranks its own hits, the best of all come first.

Scores of different analyses are compared as they are: rarity is counted inside each one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_core.corpus.fulltext import Words, snippet
from mistudio_find.opened import Opened
from mistudio_find.table import Sql


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that was found."""

    job_id: str
    """Its analysis."""
    score: float
    """How well it fits, larger is better."""
    record: dict[str, Any]
    """The feature."""
    snippet: str
    """Text around the words."""


@dataclass(frozen=True, slots=True)
class Found:
    """All hits of a search, in order; their records are read when it is their turn."""

    total: int
    """Hits that were ranked."""
    _places: Sequence[tuple[float, int, int]]
    _analyses: Sequence[tuple[str, Opened]]
    _words: Words

    def hits(self, start: int, count: int) -> Iterator[Hit]:
        """The hits start..start+count-1."""
        for score, number, place in self._places[start : start + count]:
            job_id, opened = self._analyses[number]
            for record in opened.pages.records([place]):
                texts = [str(top["text"]) for top in record.get("top_activations") or ()]
                yield Hit(job_id, -score, record, snippet(texts, self._words))


def search(analyses: Sequence[tuple[str, Opened]], words: Words, where: Sql, most: int) -> Found:
    """The best `most` hits over analyses, (job id, analysis) each; equal ones in the order of the analyses."""
    total, rows = 0, []
    for number, (_, opened) in enumerate(analyses):
        found, count = opened.queries().search(words.match, where, most)
        rows.append([(score, number, place) for score, place in found])
        total += count
    best = [row for row, _ in zip(heapq.merge(*rows), range(most), strict=False)]
    return Found(total, best, analyses, words)
