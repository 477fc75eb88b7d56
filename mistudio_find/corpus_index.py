"""The corpus as numbers: which word and which document each token stands in, which documents judge.

Built once from a codes artifact, in one pass. What there is per token and word lies in files of the
job's scratch folder, memory-mapped; per document about 30 bytes stay in memory, and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.corpus.splits import is_judge
from mistudio_core.corpus.words import words
from mistudio_torch.codes import CodesReader
from mistudio_torch.codes.tensorfile import finish, let_go

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; shapes and types stand in the docstrings."""
_BLOCK = 1 << 22
_TICK_EVERY = 200


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
    token_doc: Array
    """int32 (T,): each token's document."""
    token_ids: Array
    """uint32 (T,): each token's id in the model's vocabulary."""
    units: int
    """One more than the largest unit."""
    unit_counts: Array
    """int64 (units,): tokens of each unit in evidence documents."""
    sample: Array
    """int64 (units,): one token of each unit, -1 for none."""
    evidence_tokens: int
    """Tokens of evidence documents."""
    judge: Array
    """bool (D,): kept back to judge explanations."""
    documents_with: Array
    """int32 (V,): evidence documents that hold the word."""
    evidence_documents: int
    """Number of evidence documents."""
    maps: tuple[Array, ...] = ()
    """The memory maps behind the arrays."""

    def unit_text(self, unit: int) -> str:
        """The word of a unit; empty where the token is in no word."""
        return self.vocabulary[unit] if unit < len(self.vocabulary) else ""

    def idf(self) -> Array:
        """float32 (V,): ln((1 + E) / (1 + documents_with)), E evidence documents."""
        return np.log((1 + self.evidence_documents) / (1 + self.documents_with)).astype(np.float32)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first, last) of runs of about 4 million tokens, in order; lets go of each before the next."""
        for first in range(0, len(self.token_doc), _BLOCK):
            if first:
                self.release()
            yield first, min(first + _BLOCK, len(self.token_doc))

    def release(self) -> None:
        """Lets go of what the memory maps have read."""
        for mapped in self.maps:
            let_go(mapped)


def build_index(codes: CodesReader, folder: Path, tick: Callable[[float], None]) -> CorpusIndex:
    """Reads every text once into files in `folder`; `tick(share)` is called at least every few hundred documents.

    OSError passes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary: dict[str, int] = {}
    docs, counts = codes.n_documents, _Counts()
    doc_words, judge = np.zeros(docs + 1, np.int64), np.zeros(docs, bool)
    with (
        (folder / "word_ids").open("wb") as word_file,
        (folder / "token_word").open("wb") as at_file,
        (folder / "token_unit").open("wb") as unit_file,
        (folder / "token_doc").open("wb") as doc_file,
    ):
        for doc in range(docs):
            if doc % _TICK_EVERY == 0:
                tick(doc / max(1, docs))
            text = codes.text(doc)
            judge[doc] = is_judge(text)
            found = [(vocabulary.setdefault(word, len(vocabulary)), start, end) for word, start, end in words(text)]
            here = np.array(found, np.int32).reshape(-1, 3)
            doc_words[doc + 1] = doc_words[doc] + len(here)
            at, inside = _words_under(codes.spans(doc), here)
            word_file.write(np.ascontiguousarray(here[:, 0]).data)
            at_file.write((doc_words[doc] + at).astype(np.int32).data)
            # Token ids are kept apart from words by a negative number until the vocabulary is whole.
            outside = -1 - codes.token_ids(doc).astype(np.int64)
            unit_file.write(np.where(inside, _take(here[:, 0], at), outside).astype(np.int32).data)
            doc_file.write(np.full(len(at), doc, np.int32).data)
            if not judge[doc]:
                counts.add(here[:, 0])
    _number_units(folder / "token_unit", len(vocabulary))
    maps = tuple(_mapped(folder / name) for name in ("word_ids", "token_word", "token_unit", "token_doc"))
    word_ids, token_word, token_unit, token_doc = (np.asarray(m) for m in maps)
    unit_counts, sample = _count_units(token_unit, token_doc, judge, len(vocabulary))
    return CorpusIndex(
        vocabulary=list(vocabulary),
        word_ids=word_ids,
        doc_words=doc_words,
        token_word=token_word,
        token_unit=token_unit,
        token_doc=token_doc,
        token_ids=codes.token_column,
        units=len(sample),
        unit_counts=unit_counts,
        sample=sample,
        evidence_tokens=int(unit_counts.sum()),
        judge=judge,
        documents_with=counts.upto(len(vocabulary)),
        evidence_documents=int((~judge).sum()),
        maps=maps,
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


class _Counts:
    """In how many documents each word stands, while words are still being met."""

    def __init__(self) -> None:
        self._counts = np.zeros(1024, np.int32)

    def add(self, word_ids: Array) -> None:
        """The words of one more document."""
        found = np.unique(word_ids)
        if len(found) and found[-1] >= len(self._counts):
            self._counts = np.pad(self._counts, (0, max(len(self._counts), int(found[-1]) + 1 - len(self._counts))))
        self._counts[found] += 1

    def upto(self, size: int) -> Array:
        """int32 (size,)."""
        return np.pad(self._counts, (0, max(0, size - len(self._counts))))[:size]


def _number_units(path: Path, words_known: int) -> None:
    """Turns -1 - id into `words_known` + id in the file."""
    mapped = _mapped(path, "r+")
    for first in range(0, len(mapped), _BLOCK):
        block = mapped[first : first + _BLOCK]
        block[:] = np.where(block < 0, words_known - 1 - block, block)
        finish({"units": mapped})


def _count_units(token_unit: Array, token_doc: Array, judge: Array, words_known: int) -> tuple[Array, Array]:
    """(tokens of each unit in evidence documents, one token of each unit), a block of tokens at a time."""
    counts, sample = np.zeros(words_known, np.int64), np.full(words_known, -1, np.int64)
    for first in range(0, len(token_unit), _BLOCK):
        block = token_unit[first : first + _BLOCK]
        here = np.bincount(block[~judge[token_doc[first : first + _BLOCK]]], minlength=int(block.max()) + 1)
        more = max(0, len(here) - len(counts))
        counts, sample = np.pad(counts, (0, more)), np.pad(sample, (0, more), constant_values=-1)
        counts[: len(here)] += here
        sample[block] = first + np.arange(len(block))
    return counts, sample


def _mapped(path: Path, mode: Any = "r") -> Array:
    """The int32 numbers of a file, mapped; an empty array for an empty file."""
    return np.memmap(path, np.int32, mode) if path.stat().st_size else np.zeros(0, np.int32)
