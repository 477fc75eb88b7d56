"""Which features fire together: cosines and correlations of activations over a sample of tokens.

Reads codes, never weights. The sample is whole documents drawn with a seed, at most 200,000 tokens and
as many activations and pairs of them as a bounded time allows. F features, T tokens, N activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.weights import Nearest
from mistudio_torch.codes import CodesReader

SAMPLE_TOKENS = 200_000
"""Most tokens of the sample."""
SAMPLE_ACTIVATIONS = 16_000_000
"""Most activations of the sample, by their mean number a token: 12 bytes each."""
SAMPLE_PAIRS = 4_000_000_000
"""Most pairs of activations on one token, by the square of that mean: about ten seconds of one core."""
_CHUNK_ACTIVATIONS, _CHUNK_FEATURES = 1 << 21, 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparse:
    """Activations of F features on T tokens, sorted by feature and by token."""

    offsets_F: Array
    """int64 (F + 1,): where each feature's activations begin."""
    token_N: Array
    """int32 (N,): token of each activation, rising within a feature."""
    value_N: Array
    """float32 (N,): the activations."""
    starts_T: Array
    """int64 (T + 1,): where each token's activations begin in the next two."""
    feature_N: Array
    """int32 (N,): feature of each activation, sorted by token."""
    turned_N: Array
    """float32 (N,): the activations in this order."""

    @property
    def features(self) -> int:
        """F."""
        return len(self.offsets_F) - 1

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.starts_T) - 1

    def moments(self, *, centred: bool) -> tuple[Array, Array]:
        """float64 (F,) each: the means and scales of passes.nearest.correlate."""
        sums_F, squares_F = (
            np.array([_sum(values, self.offsets_F, f) for f in range(self.features)])
            for values in (self.value_N.astype(np.float64), self.value_N.astype(np.float64) ** 2)
        )
        if not centred:
            return np.zeros(self.features), np.sqrt(squares_F)
        means_F = sums_F / np.sqrt(max(1, self.tokens))
        return means_F, np.sqrt(np.maximum(0, squares_F - means_F**2))


def _sum(values: Array, offsets: Array, at: int) -> float:
    return float(values[offsets[at] : offsets[at + 1]].sum())


def sample_tokens(*codes: CodesReader) -> float:
    """Most tokens of a sample of which all of these codes are read: the budget of the densest."""
    a_token = max(1.0, *(one.n_nonzero / max(1, one.n_tokens) for one in codes))
    return min(SAMPLE_TOKENS, SAMPLE_ACTIVATIONS / a_token, SAMPLE_PAIRS / a_token**2)


def sample_of(codes: CodesReader, seed: int) -> Array:
    """int64: documents of the sample, rising; always at least one that has tokens, where there is one."""
    lengths = np.diff(codes.doc_token_offsets)
    order = np.random.default_rng([seed, 11]).permutation(np.flatnonzero(lengths > 0))
    return np.sort(order[within(lengths[order], sample_tokens(codes))])


def within(lengths: Array, most: float) -> Array:
    """Which documents, in their order, have at most so many tokens together, bool (n,); the first one anyway."""
    taken: Array = np.cumsum(lengths) <= most
    taken[:1] = True
    return taken


def on_documents(codes: CodesReader, documents: Array, tick: Callable[[float], None] = lambda _: None) -> Sparse:
    """Activations on the tokens of some documents, rising, which stand one after the other."""
    starts_S, ends_S = codes.doc_token_offsets[documents], codes.doc_token_offsets[documents + 1]
    bases_S = np.cumsum(ends_S - starts_S) - (ends_S - starts_S)
    tokens, values, counts = [], [], []
    for first, token_N, value_N, count_C in _chunks(codes, starts_S, ends_S, bases_S):
        tick(first / codes.d_sae)
        tokens.append(token_N)
        values.append(value_N)
        counts.append(count_C)
        codes.release()
    offsets_F = np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if counts else np.zeros(1, np.int64)
    joined = [np.concatenate(part) if part else np.zeros(0) for part in (tokens, values)]
    tokens.clear()
    values.clear()
    return sparse(offsets_F.astype(np.int64), joined[0], joined[1], int((ends_S - starts_S).sum()))


def _chunks(
    codes: CodesReader, starts_S: Array, ends_S: Array, bases_S: Array
) -> Iterator[tuple[int, Array, Array, Array]]:
    """(first feature, int32 places in the sample, float32 values, int64 how many of each feature)."""
    from mistudio_find.passes.nearest import in_sample

    for first, last in codes.ranges(_CHUNK_ACTIVATIONS, _CHUNK_FEATURES):
        offsets_C, positions_N, bits_N = codes.part(first, last)
        token_N, count_C = np.empty(len(positions_N), np.int32), np.empty(last - first, np.int64)
        in_sample(offsets_C, positions_N, starts_S, ends_S, bases_S, token_N, count_C)
        inside = token_N >= 0
        yield first, token_N[inside], bits_N[inside].view(np.float16).astype(np.float32), count_C


def sparse(offsets_F: Array, token_N: Array, value_N: Array, tokens: int, parts: int = 16) -> Sparse:
    """From activations sorted by feature."""
    from mistudio_find.passes.nearest import by_token

    token_N, value_N = token_N.astype(np.int32, copy=False), value_N.astype(np.float32, copy=False)
    starts_T = np.concatenate([[0], np.cumsum(np.bincount(token_N, minlength=tokens))]).astype(np.int64)
    feature_N, turned_N = np.empty(len(token_N), np.int32), np.empty(len(token_N), np.float32)
    bounds_P = np.linspace(0, tokens, min(parts, max(1, tokens)) + 1).astype(np.int64)
    by_token(offsets_F, token_N, value_N, starts_T, feature_N, turned_N, bounds_P)
    return Sparse(
        offsets_F=offsets_F,
        token_N=token_N,
        value_N=value_N,
        starts_T=starts_T,
        feature_N=feature_N,
        turned_N=turned_N,
    )


def most_alike(one: Sparse, two: Sparse, most: int, parts: int, *, centred: bool) -> Nearest:
    """For each feature of one those of two, on the same tokens, with the largest correlation or, else, cosine.

    Where both are the same object a feature does not meet itself. Only figures above 0 are kept.
    """
    from mistudio_find.passes.nearest import correlate

    found = Nearest.none(one.features, most)
    mean_F, scale_F = one.moments(centred=centred)
    mean_G, scale_G = (mean_F, scale_F) if two is one else two.moments(centred=centred)
    correlate(
        one.offsets_F,
        one.token_N,
        one.value_N,
        two.starts_T,
        two.feature_N,
        two.turned_N,
        mean_F,
        scale_F,
        mean_G,
        scale_G,
        two is one,
        found.ids_FK,
        found.values_FK,
        parts,
    )
    np.clip(found.values_FK, -2, 1, out=found.values_FK)
    return found
