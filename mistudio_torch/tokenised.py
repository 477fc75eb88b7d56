"""A stored corpus as tokens of one model: its documents in order, and choices among them.

Numpy only. Nothing of it grows with the text: arrays a document, files a token. Owns no split and no order
of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.corpus.about import StoredCorpus
from mistudio_core.corpus.documents import Document, iter_documents
from mistudio_core.errors import InvalidInput
from mistudio_torch.chat import chat_renderer
from mistudio_torch.tokens import Tokenizer, TokenTable, tokenize

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; shapes and types stand in the docstrings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenisedCorpus:
    """A corpus and its tokens."""

    path: Path
    """The file of documents."""
    sha256: str
    """Its digest."""
    table: TokenTable
    """Tokens of the documents that have any."""
    lines: Array
    """int64: number of each such document among the file's documents."""
    real_tokens: Array
    """int64: tokens of each document, special ones excluded."""
    render: Callable[[Document], str]
    """From a document to the text that was tokenised."""

    def documents(self, numbers: Array) -> Iterator[tuple[str, Document]]:
        """(text as it was tokenised, document) for the documents `numbers` of `table`, rising, from the file again."""
        wanted, position = self.lines[numbers], 0
        for number, document in enumerate(iter_documents(self.path)):
            if position == len(wanted):
                return
            if number == wanted[position]:
                yield self.render(document), document
                position += 1

    def tokens_of(self, document: int) -> tuple[Array, Array]:
        """(uint32 (n,) ids, int32 (n, 2) character spans) of a document's real tokens."""
        sequences = self.table.sequences([document])
        part = slice(sequences[0][0], sequences[-1][1])
        real = ~np.asarray(self.table.special_T[part])
        return np.asarray(self.table.ids_T[part])[real], np.asarray(self.table.spans_T2[part])[real]


def tokenised(
    stored: StoredCorpus,
    tokenizer: Tokenizer,
    scratch: Path,
    *,
    max_sequence_length: int,
    bos_id: int | None,
    on_batch: Callable[[int, int], None],
    on_document: Callable[[Document], None] = lambda _: None,
) -> TokenisedCorpus:
    """Tokenises a corpus into files under `scratch`.

    Calls `on_batch(documents so far, documents in all or 0)` often, and `on_document` once for each in the file,
    in order. Raises InvalidInput (CORPUS_EMPTY, CORPUS_NOT_UTF8, CORPUS_RECORD_INVALID), Unsupported for
    chats where the tokenizer has no chat template.
    """
    render = chat_renderer(tokenizer, bos_id)
    total = stored.about.statistics.documents

    def texts() -> Iterator[str]:
        for document in iter_documents(stored.path):
            on_document(document)
            yield render(document)

    table, kept = tokenize(
        texts(),
        tokenizer,
        scratch,
        max_sequence_length=max_sequence_length,
        bos_id=bos_id,
        on_batch=lambda documents: on_batch(documents, total),
    )
    lines = np.asarray(kept, np.int64)
    if not len(lines):
        raise InvalidInput(
            "The corpus holds no usable text: no document has a token of the model. Upload text of another kind.",
            reason="CORPUS_EMPTY",
        )
    return TokenisedCorpus(
        path=stored.path,
        sha256=stored.sha256,
        table=table,
        lines=lines,
        real_tokens=table.real_tokens(),
        render=render,
    )


def cut_blocks(documents: Array, real_tokens_D: Array, block_tokens: int) -> list[Array]:
    """Documents in runs that end with the document which reaches each multiple of `block_tokens`."""
    cumulated = np.cumsum(real_tokens_D[documents])
    numbers = (cumulated - real_tokens_D[documents]) // block_tokens
    borders = np.flatnonzero(np.diff(numbers)) + 1
    return np.split(documents, borders)


def sample_documents(real_tokens_D: Array, most_tokens: int, seed: int) -> Array:
    """Documents in order, all or a random choice with at most `most_tokens` tokens; at least one."""
    documents = np.arange(len(real_tokens_D))
    if int(real_tokens_D.sum()) <= most_tokens:
        return documents
    order = np.random.default_rng([seed, 1]).permutation(documents)
    count = int(np.searchsorted(np.cumsum(real_tokens_D[order]), most_tokens, side="right"))
    return np.sort(order[: max(count, 1)])
