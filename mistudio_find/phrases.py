"""Runs of two and three words that set the places where features fire apart from the corpus.

Owns which runs are shown; passes/texts.py counts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import Survey

KEPT = 10
"""Runs kept a feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrases:
    """The best runs of each of F features; a place without one has length 0."""

    run: Array
    """int64 (F, KEPT, 3): the word occurrence at which it begins somewhere, its words, strong tokens in it."""
    figure: Array
    """float64 (F, KEPT, 2): its share of the strong tokens' activation; how many times more often they stand in it
    than words of the corpus."""

    def of(self, index: CorpusIndex, feature: int) -> list[tuple[str, int, float, float]]:
        """(text, count, share, lift), best first; a run within a longer one that is as common is left out."""
        found: list[tuple[tuple[str, ...], int, float, float]] = []
        for (start, length, count), (share, lift) in zip(
            self.run[feature].tolist(), self.figure[feature].tolist(), strict=True
        ):
            if not length:
                break
            run = tuple(index.vocabulary[w] for w in index.word_ids[start : start + length].tolist())
            found.append((run, count, share, lift))
        longer = [(run, count) for run, count, _, _ in found if len(run) > 2]
        return [
            (" ".join(run), count, share, lift)
            for run, count, share, lift in found
            if not (len(run) == 2 and any(count == c and run in (r[:2], r[1:]) for r, c in longer))
        ]


def find_phrases(index: CorpusIndex, survey: Survey, parts: int) -> Phrases:
    """The runs of all features, from their strong tokens, on `parts` threads."""
    from mistudio_find.passes import texts

    counts = np.zeros((2, texts.SLOTS), np.uint32)
    texts.count_runs(index.word_ids, index.doc_words, index.judge, counts)
    shape = len(survey.strong), KEPT
    found = Phrases(run=np.zeros((*shape, 3), np.int64), figure=np.zeros((*shape, 2)))
    evidence_words = int(np.diff(index.doc_words)[~index.judge].sum())
    columns = index.token_word, index.token_doc, index.word_ids, index.doc_words, counts, evidence_words
    texts.find_phrases(survey.strong, survey.strong_value, *columns, found.run, found.figure, parts)
    index.release()
    return found
