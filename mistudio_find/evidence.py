"""Which tokens of the corpus stand for each feature, and the figures of its activations.

`survey` goes once over all activations, a chunk of features at a time, and keeps about 3 KB a feature.
Picks are tokens; texts are cut in render.py. At most one token a document is picked, its strongest.
Everything is a function of (codes, config, seed), whatever the chunks and threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mistudio_find.associations import Associations, Carried, carried_by
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.passes import BINS, TENTHS
from mistudio_find.topics import WINDOW_WORDS, TopicSpace
from mistudio_torch.codes import CodesReader

CLEAR_SHARE = 0.3
"""A judging text counts as firing from this share of the feature's largest activation on."""
JUDGE_TEXTS = 10
"""Held-out texts kept a feature: as many on which it fires, silent random ones, and half as many silent near ones."""
STRONG = 100
"""Documents that keywords and phrases are drawn from: the strongest."""
DRIVERS, OUTLIERS = 10, 10
"""Driving tokens and outliers kept a feature."""
OUTLIER_DEVIATIONS = 6.0
"""A document's peak is an outlier from so many scaled median absolute deviations above the median peak on."""
_POOL = 2000
_COPY_REACH = 5
CHUNK_ACTIVATIONS, CHUNK_FEATURES = 1 << 21, 1024
"""A chunk has at most so many activations, or one feature, and at most so many features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picks:
    """Tokens, one a document, strongest first."""

    docs: Array
    """int64 (n,): documents."""
    tokens: Array
    """int64 (n,): global token indices."""
    values: Array
    """float32 (n,): activations."""

    def __len__(self) -> int:
        return len(self.docs)

    def take(self, at: Array) -> Picks:
        """The picks at these indices, in their order."""
        return Picks(docs=self.docs[at], tokens=self.tokens[at], values=self.values[at])


def first_of_runs(keys: Array) -> Array:
    """Indices at which a new run of equal keys begins; the first is one where there is any."""
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return np.flatnonzero(new)


@dataclass(frozen=True, kw_only=True, slots=True)
class SilentPools:
    """Random windows, at most 2,000 of evidence and of judging documents, one a document, for silent texts."""

    docs: Array
    """int64 (P,): documents in random order, evidence first."""
    tokens: Array
    """int64 (P,): global index of each window's middle token."""
    windows: Array
    """int64 (P, 2): first token of each window and the one after its last."""
    vectors: Array
    """float32 (P, r): topic vectors of the windows."""
    slots: Array
    """int32 (D,): where each document's window stands; -1 for none."""
    evidence: int
    """How many are of evidence documents."""

    def parts(self, found: Survey) -> tuple[tuple[int, int, tuple[Array, Array]], ...]:
        """(first, last, where the survey keeps their picks) of the evidence part and of the judging part."""
        return (0, self.evidence, found.silent), (self.evidence, len(self.docs), found.judge_silent)


def build_pools(codes: CodesReader, index: CorpusIndex, topics: TopicSpace, *, context: int, seed: int) -> SilentPools:
    """Windows of `context` tokens each side of a random token."""
    starts = codes.doc_token_offsets
    lengths = np.diff(starts)
    chosen, middles = [], []
    for judge in (False, True):
        rng = np.random.default_rng([seed, 2 + judge])
        docs = rng.permutation(np.flatnonzero((index.judge == judge) & (lengths > 0)))[:_POOL]
        chosen.append(docs)
        middles.append(starts[docs] + (rng.random(len(docs)) * lengths[docs]).astype(np.int64))
    docs, tokens = np.concatenate(chosen), np.concatenate(middles)
    low, high = np.maximum(starts[docs], tokens - context), np.minimum(starts[docs + 1], tokens + context + 1)
    slots = np.full(len(lengths), -1, np.int32)
    slots[docs] = np.arange(len(docs))
    return SilentPools(
        docs=docs,
        tokens=tokens,
        windows=np.stack([low, high], axis=1),
        vectors=topics.windows(index, index.token_word[tokens], docs),
        slots=slots,
        evidence=len(chosen[0]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the pass found, F features. Tokens are global indices; -1 where there are no more."""

    count: Array
    """int64 (F,): tokens on which each fires."""
    moments: Array
    """float64 (F, 4): sum, largest, sums of squared and of cubed deviations from the mean."""
    histogram: Array
    """int64 (F, BINS): tokens by activation, between 0 and the largest."""
    tenths: Array
    """int64 (F, TENTHS): tokens by their place in the document."""
    first: Array
    """float64 (F,): sum of activations on first tokens of documents."""
    documents: Array
    """int64 (F,): documents in which each fires."""
    evidence: Array
    """float64 (F, 2): activations in evidence documents and their sum."""
    driver: Array
    """int32 (F, DRIVERS): units with the most activation in evidence documents."""
    driver_count: Array
    """int32 (F, DRIVERS): their tokens on which it fires."""
    driver_mass: Array
    """float64 (F, DRIVERS): their activation."""
    top: Array
    """int64 (F, top_texts): strongest tokens of evidence documents whose surroundings differ."""
    quantile: Array
    """int64 (F, quantiles): one from each group of the documents after those."""
    judged: Array
    """int64 (F, JUDGE_TEXTS): tokens of judging documents."""
    strong: Array
    """int64 (F, STRONG): strongest tokens of evidence documents."""
    strong_value: Array
    """float32 (F, STRONG): their activations."""
    outlier: Array
    """int64 (F, OUTLIERS): tokens far above the others."""
    outlier_away: Array
    """float64 (F, OUTLIERS): how far, in scaled median absolute deviations."""
    silent: tuple[Array, Array]
    """int64 (F, n) places in the evidence pool: random ones, and near ones."""
    judge_silent: tuple[Array, Array]
    """The same of the judge pool."""
    associations: Associations
    """How each goes with what the documents carry."""
    likeness: Array
    """float64 (F,): mean cosine of the topic vectors of two top texts; 0 for fewer than two."""


def survey(
    codes: CodesReader,
    index: CorpusIndex,
    topics: TopicSpace,
    pools: SilentPools,
    config: FindConfig,
    *,
    parts: int,
    tick: Callable[[float], None],
) -> Survey:
    """Goes over all activations on `parts` threads."""
    carried = carried_by(codes)
    found = empty(codes.d_sae, config, carried)
    for first, last in codes.ranges(CHUNK_ACTIVATIONS, CHUNK_FEATURES):
        tick(first / codes.d_sae)
        chunk = Chunk(codes, index, first, last, parts)
        chunk.measure(found)
        chunk.pick(found, config.seed)
        chunk.contrast(found, topics, pools, config.seed)
        chunk.find_outliers(found)
        chunk.associate(found, carried)
        codes.release()
        index.release()
    return found


def empty(features: int, config: FindConfig, carried: Carried) -> Survey:
    """A survey of F features that nothing is in yet."""

    def zeros(*shape: int, dtype: type = np.float64) -> Array:
        return np.zeros((features, *shape), dtype)

    def none(columns: int, dtype: type = np.int64) -> Array:
        return np.full((features, columns), -1, dtype)

    near = config.contrast_texts // 2
    return Survey(
        count=zeros(dtype=np.int64),
        moments=zeros(4),
        histogram=zeros(BINS, dtype=np.int64),
        tenths=zeros(TENTHS, dtype=np.int64),
        first=zeros(),
        documents=zeros(dtype=np.int64),
        evidence=zeros(2),
        driver=none(DRIVERS, np.int32),
        driver_count=zeros(DRIVERS, dtype=np.int32),
        driver_mass=zeros(DRIVERS),
        top=none(config.top_texts),
        quantile=none(config.quantiles),
        judged=none(JUDGE_TEXTS),
        strong=none(STRONG),
        strong_value=zeros(STRONG, dtype=np.float32),
        outlier=none(OUTLIERS),
        outlier_away=zeros(OUTLIERS),
        silent=(none(config.contrast_texts - near), none(near)),
        judge_silent=(none(JUDGE_TEXTS), none(JUDGE_TEXTS // 2)),
        associations=Associations.empty(features, carried),
        likeness=zeros(),
    )


class Chunk:
    """The activations of some features with what they need of the corpus; writes their rows of a survey."""

    def __init__(self, codes: CodesReader, index: CorpusIndex, first: int, last: int, parts: int) -> None:
        from mistudio_find.passes import figures

        self.index, self.parts = index, parts
        self.first, self.rows = first, slice(first, last)
        self.offsets, self.positions, self.bits = codes.part(first, last)
        self.starts = codes.doc_token_offsets
        self.tenths = (TENTHS / np.maximum(1, np.diff(self.starts))).astype(np.float32)
        size = len(self.bits)
        self.values = np.empty(size, np.float32)
        figures.widen(self.bits, self.values.view(np.uint32))
        self.values *= np.float32(2.0**112)
        self.docs, self.units = np.empty(size, np.int32), np.empty(size, np.int32)
        cursors = self.offsets[:-1].copy()
        for low, high in index.blocks():
            columns = index.token_doc[low:high], index.token_unit[low:high]
            figures.gather(self.offsets, cursors, self.positions, low, high, *columns, self.docs, self.units)
        self.peaks = np.zeros((last - first, 2), np.int64)
        self.peak = np.empty(size, np.int32)

    def measure(self, found: Survey) -> None:
        """Figures, peaks in order, drivers."""
        from mistudio_find.passes import figures

        rows = self.rows
        figures.measure(
            self.offsets,
            self.positions,
            self.bits,
            self.values,
            self.docs,
            self.starts,
            self.tenths,
            self.index.judge,
            found.moments[rows],
            found.histogram[rows],
            found.tenths[rows],
            found.first[rows],
            self.peaks,
            self.peak,
        )
        figures.rank(self.offsets, self.bits, self.peaks, self.peak, self.parts)
        figures.drive(
            self.offsets,
            self.values,
            self.docs,
            self.units,
            self.index.judge,
            self.index.units,
            found.driver[rows],
            found.driver_count[rows],
            found.driver_mass[rows],
            found.evidence[rows],
            self.parts,
        )
        found.count[rows] = np.diff(self.offsets)
        found.documents[rows] = self.peaks.sum(axis=1)

    def pick(self, found: Survey, seed: int) -> None:
        """Top, quantile, judging and strong tokens."""
        from mistudio_find.passes import picks

        rows = self.rows
        picks.pick(
            self.offsets,
            self.positions,
            self.values,
            self.docs,
            self.peaks,
            self.peak,
            self.index.token_word,
            self.index.word_ids,
            self.index.doc_words,
            found.moments[rows, 1],
            self.first,
            seed,
            _COPY_REACH,
            CLEAR_SHARE,
            found.top[rows],
            found.quantile[rows],
            found.judged[rows],
            found.strong[rows],
            found.strong_value[rows],
        )

    def find_outliers(self, found: Survey) -> None:
        """Activations far above the others."""
        from mistudio_find.passes import picks

        outlier, away = found.outlier[self.rows], found.outlier_away[self.rows]
        picks.find_outliers(self.offsets, self.values, self.peaks, self.peak, OUTLIER_DEVIATIONS, outlier, away)
        outlier[outlier >= 0] = self.positions[outlier[outlier >= 0]]

    def contrast(self, found: Survey, topics: TopicSpace, pools: SilentPools, seed: int) -> None:
        """Silent windows of both pools, and how alike the top texts are."""
        from mistudio_find.passes import picks, texts

        top, index = found.top[self.rows], self.index
        like = np.zeros((len(top), topics.word_vectors.shape[1]), np.float32)
        words = index.token_word, index.token_doc, index.word_ids, index.doc_words
        texts.direct(top, *words, topics.word_vectors, WINDOW_WORDS, like)
        counts = (top >= 0).sum(axis=1)
        squares = np.einsum("cr,cr->c", like, like, dtype=np.float64)
        found.likeness[self.rows] = np.maximum(0, squares - counts) / np.maximum(1, counts * (counts - 1))
        picks.contrast(
            self.offsets,
            self.positions,
            self.docs,
            self.peaks,
            self.peak,
            pools.slots,
            pools.windows,
            like @ pools.vectors.T,
            pools.evidence,
            self.first,
            seed,
            *(places[self.rows] for places in (*found.silent, *found.judge_silent)),
            self.parts,
        )

    def associate(self, found: Survey, carried: Carried) -> None:
        """What the documents carry, one column after the other."""
        found.associations.add(
            carried, self.rows, self.offsets, self.bits, self.docs, self.peaks, self.peak, self.parts
        )
