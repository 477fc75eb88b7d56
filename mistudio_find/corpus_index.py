"""The corpus as numbers: words of every document, and the word under every token.

Built once a job in one pass over the texts; 4 bytes a word and 12 a token stay in memory. Owns no
statistics of features. Document frequencies count evidence documents only (corpus/splits.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio_core.corpus.splits import is_judge
from mistudio_core.corpus.words import words
from mistudio_torch.codes import CodesReader

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; shapes and types stand in the docstrings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusIndex:
    """D documents, T tokens, W word occurrences, V distinct words."""

    vocabulary: list[str]
    """The V words, casefolded, in order of first use."""
    word_ids: Array
    """int32 (W,): which word stands there."""
    doc_words: Array
    """int64 (D + 1,): first word occurrence of each document, and W."""
    token_word: Array
    """int32 (T,): the word occurrence under, else before, each token; see token_unit for which."""
    token_unit: Array
    """int32 (T,): the word id under a token, or V + token id where it is in no word."""
    token_ids: Array
    """int32 (T,): each token's id in the model's vocabulary."""
    judge: Array
    """bool (D,): kept back to judge explanations."""
    documents_with: Array
    """int32 (V,): evidence documents that hold the word."""
    evidence_documents: int
    """Number of evidence documents."""

    def unit_text(self, unit: int) -> str:
        """The word of a unit; empty where the token is in no word."""
        return self.vocabulary[unit] if unit < len(self.vocabulary) else ""

    def idf(self) -> Array:
        """float32 (V,): ln((1 + E) / (1 + documents_with)), E evidence documents."""
        return np.log((1 + self.evidence_documents) / (1 + self.documents_with)).astype(np.float32)


def build_index(codes: CodesReader, tick: Callable[[float], None]) -> CorpusIndex:
    """Reads every text once; `tick(share)` is called at least every few hundred documents."""
    vocabulary: dict[str, int] = {}
    docs = codes.n_documents
    ids, doc_words, judge = [], np.zeros(docs + 1, np.int64), np.zeros(docs, bool)
    token_word, token_unit, token_ids = (np.zeros(codes.n_tokens, np.int32) for _ in range(3))
    for doc in range(docs):
        if doc % 200 == 0:
            tick(doc / max(1, docs))
        text = codes.text(doc)
        judge[doc] = is_judge(text)
        found = [(vocabulary.setdefault(word, len(vocabulary)), start, end) for word, start, end in words(text)]
        here = np.array(found, np.int32).reshape(-1, 3)
        ids.append(here[:, 0])
        doc_words[doc + 1] = doc_words[doc] + len(here)
        part = slice(*codes.doc_tokens(doc))
        at, inside = _words_under(codes.spans(doc), here)
        token_word[part] = doc_words[doc] + at
        # Token ids are kept apart from words by a negative number until the vocabulary is whole.
        token_ids[part] = codes.token_ids(doc)
        token_unit[part] = np.where(inside, _take(here[:, 0], at), -1 - token_ids[part])
    outside = token_unit < 0
    token_unit[outside] = len(vocabulary) - 1 - token_unit[outside]
    word_ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    return CorpusIndex(
        vocabulary=list(vocabulary),
        word_ids=word_ids,
        doc_words=doc_words,
        token_word=token_word,
        token_unit=token_unit,
        token_ids=token_ids,
        judge=judge,
        documents_with=_documents_with(word_ids, doc_words, ~judge, len(vocabulary)),
        evidence_documents=int((~judge).sum()),
    )


def _words_under(spans: Array, here: Array) -> tuple[Array, Array]:
    """For each token the word at its last character, else the one before; and whether it is in it."""
    # The last character: tokens of many models carry the space before their word.
    last = np.maximum(spans[:, 0], spans[:, 1] - 1)
    at = np.searchsorted(here[:, 1], last, side="right") - 1
    inside = (at >= 0) & (last < _take(here[:, 2], np.maximum(at, 0)))
    return np.maximum(at, 0), inside


def _take(values: Array, at: Array) -> Array:
    """values[at], zeros where there are no values."""
    return values[at] if len(values) else np.zeros(len(at), np.int64)


def _documents_with(word_ids: Array, doc_words: Array, chosen: Array, size: int) -> Array:
    """int32 (size,): chosen documents that hold each word."""
    lengths = np.diff(doc_words)
    kept = np.repeat(chosen, lengths)
    docs = np.repeat(np.arange(len(lengths)), lengths)[kept]
    order = np.lexsort((docs, word_ids[kept]))
    sorted_words, sorted_docs = word_ids[kept][order], docs[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(sorted_words) != 0) | (np.diff(sorted_docs) != 0)
    return np.bincount(sorted_words[first], minlength=size).astype(np.int32)
