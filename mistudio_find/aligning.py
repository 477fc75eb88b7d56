"""Two sets of codes on the texts that both hold, brought onto the same tokens.

Documents are the same where their texts are. Where the tokenizers differ, tokens are the same where they share
characters: those of the first are kept, and each has the largest activation of those of the second that overlap it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from mistudio_find import coactivation
from mistudio_find.coactivation import Sparse
from mistudio_find.corpus_index import Array
from mistudio_torch.codes import CodesReader

FEWEST_TOKENS = 1000
"""A correlation over fewer tokens says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """Activations of both on the same tokens."""

    one: Sparse
    """Of the first."""
    two: Sparse
    """Of the second."""
    by_characters: bool
    """Whether the tokens differ, so that characters were compared."""
    documents: int
    """Documents in the sample."""

    @property
    def tokens(self) -> int:
        """Tokens in the sample."""
        return self.one.tokens


def align(one: CodesReader, two: CodesReader, seed: int) -> Aligned:
    """A sample of the documents that both hold; it may have no tokens."""
    pairs = _shared(one, two)
    places = _sampled(one, two, pairs, seed)
    docs_one, docs_two = pairs[places, 0], pairs[places, 1]
    order_two = np.argsort(docs_two, kind="stable")
    parts = [_overlaps(one.spans(int(a)), two.spans(int(b))) for a, b in zip(docs_one, docs_two, strict=True)]
    same = all(own is None for own in parts)
    first = coactivation.on_documents(one, docs_one)
    if same and (order_two == np.arange(len(order_two))).all():
        second = coactivation.on_documents(two, docs_two)
        return Aligned(one=first, two=second, by_characters=False, documents=len(places))
    second = coactivation.on_documents(two, docs_two[order_two])
    theirs, ours = _token_pairs(one, two, docs_one, docs_two, order_two, parts)
    kept = np.unique(ours)
    place = np.full(first.tokens, -1, np.int64)
    place[kept] = np.arange(len(kept))
    return Aligned(
        one=_moved(first, np.flatnonzero(place >= 0), place[place >= 0], len(kept)),
        two=_moved(second, theirs, place[ours], len(kept)),
        by_characters=not same,
        documents=len(places),
    )


def _shared(one: CodesReader, two: CodesReader) -> Array:
    """int64 (n, 2): documents of both with the same text, the first with the first of equal ones."""
    known: defaultdict[bytes, list[int]] = defaultdict(list)
    for doc in range(two.n_documents - 1, -1, -1):
        if two.doc_tokens(doc)[1] > two.doc_tokens(doc)[0]:
            known[_digest(two, doc)].append(doc)
    pairs = [
        (doc, same.pop())
        for doc in range(one.n_documents)
        if one.doc_tokens(doc)[1] > one.doc_tokens(doc)[0] and (same := known.get(_digest(one, doc)))
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _digest(codes: CodesReader, doc: int) -> bytes:
    return hashlib.blake2b(codes.text(doc).encode("utf-8", "replace"), digest_size=16).digest()


def _sampled(one: CodesReader, two: CodesReader, pairs: Array, seed: int) -> Array:
    """int64, rising: pairs in the sample, as many in random order as have the tokens that it may have."""
    order = np.random.default_rng([seed, 13]).permutation(len(pairs))
    lengths = [np.diff(codes.doc_token_offsets)[pairs[order, side]] for side, codes in enumerate((one, two))]
    return np.sort(order[coactivation.within(np.maximum(*lengths), coactivation.sample_tokens(one, two))])


def _overlaps(spans_A: Array, spans_B: Array) -> tuple[Array, Array] | None:
    """(tokens of B, tokens of A) that share characters; None where both are the same tokens."""
    if spans_A.shape == spans_B.shape and (spans_A == spans_B).all():
        return None
    ends_A = np.maximum.accumulate(spans_A[:, 1])
    first = np.searchsorted(ends_A, spans_B[:, 0], side="right")
    last = np.searchsorted(spans_A[:, 0], spans_B[:, 1], side="left")
    counts = np.where(spans_B[:, 1] > spans_B[:, 0], np.maximum(0, last - first), 0)
    theirs = np.repeat(np.arange(len(spans_B)), counts)
    ours = np.arange(len(theirs)) - np.repeat(np.cumsum(counts) - counts, counts) + first[theirs]
    return theirs, ours


def _token_pairs(
    one: CodesReader,
    two: CodesReader,
    docs_one: Array,
    docs_two: Array,
    order_two: Array,
    parts: list[tuple[Array, Array] | None],
) -> tuple[Array, Array]:
    """int64 (tokens of two's sample, tokens of one's sample) that are the same."""
    lengths_one, lengths_two = (np.diff(c.doc_token_offsets)[d] for c, d in ((one, docs_one), (two, docs_two)))
    begin_one = np.cumsum(lengths_one) - lengths_one
    begin_two = np.empty(len(docs_two), np.int64)
    begin_two[order_two] = np.cumsum(lengths_two[order_two]) - lengths_two[order_two]
    theirs, ours = [], []
    for at, part in enumerate(parts):
        every = np.arange(lengths_one[at])
        b, a = (every, every) if part is None else part
        theirs.append(b + begin_two[at])
        ours.append(a + begin_one[at])
    order = np.argsort(np.concatenate(theirs), kind="stable")
    return np.concatenate(theirs)[order], np.concatenate(ours)[order]


def _moved(found: Sparse, old: Array, new: Array, tokens: int) -> Sparse:
    """Activations of the tokens `old`, rising, which may repeat, at the tokens `new`: the largest of several."""
    low = np.searchsorted(old, found.token_N, side="left")
    counts = np.searchsorted(old, found.token_N, side="right") - low
    feature_N = np.repeat(np.arange(found.features), np.diff(found.offsets_F))
    again = np.repeat(np.arange(len(low)), counts)
    place = np.arange(len(again)) - np.repeat(np.cumsum(counts) - counts, counts) + low[again]
    keys = feature_N[again] * max(1, tokens) + new[place]
    values = found.value_N[again]
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    largest = np.maximum.reduceat(values[order], first) if len(first) else values
    features, token = np.divmod(keys[order][first], max(1, tokens))
    offsets_F = np.searchsorted(features, np.arange(found.features + 1)).astype(np.int64)
    return coactivation.sparse(offsets_F, token, largest, tokens)
