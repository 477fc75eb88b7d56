"""Which documents train, in which order: a function of (seed, corpus, epoch, block) and of nothing else.

Numpy only. A block is a run of documents that is harvested, shuffled and trained on as a whole;
nothing is carried from one block to the next, so a block's number is all that resume needs.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistudio_core.corpus.about import StoredCorpus
from mistudio_core.corpus.documents import content_digest, is_heldout, iter_documents
from mistudio_torch.tokenised import Array, TokenisedCorpus, cut_blocks, tokenised
from mistudio_torch.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus(TokenisedCorpus):
    """A tokenised corpus and its split."""

    train: Array
    """int64: documents that are trained on, as numbers in `table`."""
    heldout: Array
    """int64: documents that are not."""


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
    """Tokenises and splits a corpus; see `tokenised` for `on_batch` and what it raises."""
    flags = array("b")
    found = tokenised(
        stored,
        tokenizer,
        scratch,
        max_sequence_length=max_sequence_length,
        bos_id=bos_id,
        on_batch=on_batch,
        on_document=lambda document: flags.append(is_heldout(document.content, heldout_fraction)),
    )
    heldout_D = np.frombuffer(flags, np.bool_)[found.lines]
    one_sided = heldout_D.all() or not heldout_D.any()
    train, heldout = split(heldout_D, _ranks(stored.path)[found.lines] if one_sided else heldout_D)
    return Corpus(
        path=found.path,
        sha256=found.sha256,
        table=found.table,
        lines=found.lines,
        real_tokens=found.real_tokens,
        render=found.render,
        train=train,
        heldout=heldout,
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


def epoch_blocks(
    corpus: Corpus, *, seed: int, epoch: int, block_tokens: int, total_tokens: int | None = None
) -> list[Array]:
    """The blocks of an epoch: training documents in a new order each epoch (epoch from 0).

    Of an epoch that `total_tokens` of the whole run end in, the documents that are still needed.
    """
    order = np.random.default_rng([seed, epoch]).permutation(corpus.train)
    if total_tokens is not None:
        ends = np.cumsum(corpus.real_tokens[order])
        left = total_tokens - epoch * int(ends[-1])
        order = order[: max(1, int(np.searchsorted(ends, left)) + 1)]
    return cut_blocks(order, corpus.real_tokens, block_tokens)


def batch_rows(n_tokens: int, batch_tokens: int, *, seed: int, epoch: int, block: int) -> list[Array]:
    """Rows of a block's tokens, shuffled and cut into batches of nearly equal size."""
    order = np.random.default_rng([seed, epoch, block]).permutation(n_tokens)
    return np.array_split(order, max(1, round(n_tokens / batch_tokens)))
