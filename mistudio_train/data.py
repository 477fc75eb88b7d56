"""Which documents train, in which order: a function of (seed, corpus, epoch, block) and of nothing else.

Numpy only. A block is a run of documents that is harvested, shuffled and trained on as a whole;
nothing is carried from one block to the next, so a block's number is all that resume needs.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.corpus.about import StoredCorpus
from mistudio_core.corpus.documents import Document, content_digest, is_heldout, iter_documents
from mistudio_core.errors import InvalidInput
from mistudio_torch.chat import chat_renderer
from mistudio_torch.tokens import Tokenizer, TokenTable, tokenize

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A tokenised corpus and its split. Nothing of it grows with the text: arrays a document, files a token."""

    path: Path
    """The file of documents."""
    sha256: str
    """Its digest."""
    table: TokenTable
    """Tokens of the documents that have any."""
    lines: Array
    """int64: number of each such document among the file's documents."""
    train: Array
    """int64: documents that are trained on, as numbers in `table`."""
    heldout: Array
    """int64: documents that are not."""
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


def read_corpus(
    stored: StoredCorpus,
    tokenizer: Tokenizer,
    scratch: Path,
    *,
    max_sequence_length: int,
    bos_id: int | None,
    heldout_fraction: float,
    on_batch: Callable[[int, int], None],
) -> Corpus:
    """Tokenises and splits a corpus; calls `on_batch(documents so far, documents in all or 0)` often.

    Raises InvalidInput (CORPUS_EMPTY, CORPUS_NOT_UTF8, CORPUS_RECORD_INVALID), Unsupported for chats
    where the tokenizer has no chat template.
    """
    flags = array("b")
    render = chat_renderer(tokenizer, bos_id)
    total = stored.about.statistics.documents

    def texts() -> Iterator[str]:
        for document in iter_documents(stored.path):
            flags.append(is_heldout(document.content, heldout_fraction))
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
    heldout_D = np.frombuffer(flags, np.bool_)[lines]
    one_sided = heldout_D.all() or not heldout_D.any()
    train, heldout = split(heldout_D, _ranks(stored.path)[lines] if one_sided else heldout_D)
    return Corpus(
        path=stored.path,
        sha256=stored.sha256,
        table=table,
        lines=lines,
        train=train,
        heldout=heldout,
        real_tokens=table.real_tokens(),
        render=render,
    )


def _ranks(path: Path) -> Array:
    """int64: a number of each document's content, by which one is chosen where a side of the split is empty."""
    found = array("q")
    for document in iter_documents(path):
        found.append(int.from_bytes(content_digest(document.content)[:7], "big"))
    return np.frombuffer(found, np.int64)


def split(flags_D: Array, ranks_D: Array) -> tuple[Array, Array]:
    """(train, held-out) documents. Both have at least one: the one of least or most rank where a side is empty.

    A corpus of one document is on both sides: its figures are of training text.
    """
    documents = np.arange(len(flags_D))
    train, heldout = documents[~flags_D], documents[flags_D]
    if not len(heldout):
        heldout = documents[[int(np.argmin(ranks_D))]]
        train = train[train != heldout[0]] if len(documents) > 1 else train
    if not len(train):
        train = documents[[int(np.argmax(ranks_D))]]
        heldout = heldout[heldout != train[0]] if len(documents) > 1 else heldout
    return train, heldout


def cut_blocks(documents: Array, real_tokens_D: Array, block_tokens: int) -> list[Array]:
    """Documents in runs that end with the document which reaches each multiple of `block_tokens`."""
    cumulated = np.cumsum(real_tokens_D[documents])
    numbers = (cumulated - real_tokens_D[documents]) // block_tokens
    borders = np.flatnonzero(np.diff(numbers)) + 1
    return np.split(documents, borders)


def epoch_blocks(corpus: Corpus, *, seed: int, epoch: int, block_tokens: int) -> list[Array]:
    """The blocks of an epoch: training documents in a new order each epoch (epoch from 0)."""
    order = np.random.default_rng([seed, epoch]).permutation(corpus.train)
    return cut_blocks(order, corpus.real_tokens, block_tokens)


def batch_rows(n_tokens: int, batch_tokens: int, *, seed: int, epoch: int, block: int) -> list[Array]:
    """Rows of a block's tokens, shuffled and cut into batches of nearly equal size."""
    order = np.random.default_rng([seed, epoch, block]).permutation(n_tokens)
    return np.array_split(order, max(1, round(n_tokens / batch_tokens)))


def sample_documents(real_tokens_D: Array, most_tokens: int, seed: int) -> Array:
    """Documents in order, all or a random choice with at most `most_tokens` tokens; at least one."""
    documents = np.arange(len(real_tokens_D))
    if int(real_tokens_D.sum()) <= most_tokens:
        return documents
    order = np.random.default_rng([seed, 1]).permutation(documents)
    count = int(np.searchsorted(np.cumsum(real_tokens_D[order]), most_tokens, side="right"))
    return np.sort(order[: max(count, 1)])
