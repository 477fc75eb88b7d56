"""One feature at a time: from its activations to the record of all evidence about it.

Joins the domain parts (evidence, keywords, coherence, categories, render); owns the record's
fields, whose meanings are those of mistudio.feature.v1.Feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio_find.categories import GENERAL, Rules, categorise, complexity
from mistudio_find.coherence import CoherenceMeter, tier
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import (
    JUDGE_TEXTS,
    Picks,
    SilentPool,
    clearly_firing,
    quantile_picks,
    spread,
    strongest_by_document,
    without_copies,
)
from mistudio_find.keywords import keywords, window_words
from mistudio_find.render import Renderer, number
from mistudio_torch.codes import CodesReader, FeatureCodes

HISTOGRAM_BINS = 20
"""Bins between 0 and the largest activation."""
_DRIVERS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Analyst:
    """Everything that is made once a job and used for every feature."""

    codes: CodesReader
    """The activations."""
    index: CorpusIndex
    """The corpus as numbers."""
    meter: CoherenceMeter
    """Measures coherence."""
    evidence_pool: SilentPool
    """Windows for contrast texts."""
    judge_pool: SilentPool
    """Windows for silent judging texts."""
    rules: Rules
    """Category rules."""
    rule_flags: Array
    """bool (C, V): which words the rules know."""
    renderer: Renderer
    """Cuts texts."""
    config: FindConfig
    """What was asked for."""
    sae_sha256: str
    """With the feature's index its name."""

    def analyse(self, feature_id: int) -> dict[str, Any]:
        """The record of a feature; `judge_texts` is its last key."""
        codes = self.codes.feature(feature_id)
        docs = self.codes.document_of(codes.positions)
        best = strongest_by_document(codes, docs)
        judged = self.index.judge[best.docs]
        evidence, kept_back = best.take(np.flatnonzero(~judged)), best.take(np.flatnonzero(judged))
        top = without_copies(evidence, self.index, self.config.top_texts)
        vectors = self.meter.topics.windows(self.index, self.index.token_word[top.tokens], top.docs)
        units = self.index.token_unit[top.tokens]
        coherence = number(self.meter.measure(vectors, top.tokens))
        rng = np.random.default_rng([self.config.seed, feature_id])
        weaker = quantile_picks(evidence, min(len(top), len(evidence)), self.config.quantiles, rng)
        found = keywords(self.index, evidence, self.config.keywords)
        rendered = self.renderer.activations(codes, top)
        category, confidence = self._category([k.word for k in found], top, [t["text"] for t in rendered])
        fires = np.zeros(self.codes.n_documents, bool)
        fires[best.docs] = True
        like = vectors.sum(axis=0)
        start = int(rng.integers(1 << 30))
        dead = not len(codes.positions)
        return {
            "feature_id": feature_id,
            "coherence_score": coherence,
            "quality_level": tier(coherence),
            "pattern_category": GENERAL if dead else category,
            "category_confidence": 0.0 if dead else confidence,
            "pattern_keywords": [k.word for k in found],
            "keyword_scores": [k.score for k in found],
            "driving_tokens": self._drivers(codes, ~self.index.judge[docs]),
            "top_activations": rendered,
            "quantile_activations": self.renderer.activations(codes, weaker),
            "contrast_texts": self._contrast(codes, fires, like, start),
            "activation_statistics": self._statistics(codes, len(best)),
            "dead": dead,
            "complexity": complexity(units),
            "sae_sha256": self.sae_sha256,
            "judge_texts": self._judge_texts(codes, kept_back, fires, like, start),
        }

    def _category(self, words: Sequence[str], top: Picks, texts: Sequence[str]) -> tuple[str, float]:
        ids, inside = window_words(self.index, top)
        flags = (
            self.rule_flags[:, ids] & inside if self.rule_flags.shape[1] else np.zeros((len(self.rules.names), 0, 1))
        )
        known = self.rules.flags(words)
        return categorise(self.rules, keyword_flags=known, window_flags=flags.sum(axis=2), texts=texts)

    def _contrast(self, codes: FeatureCodes, fires: Array, like: Array, start: int) -> list[str]:
        """Half random, half near ones, the random first."""
        near = self.config.contrast_texts // 2
        pool = self.evidence_pool
        chosen = np.concatenate(
            pool.choose(codes, fires, like, count=self.config.contrast_texts - near, near=near, start=start)
        )
        return self.renderer.texts(pool.docs[chosen].tolist(), pool.tokens[chosen].tolist())

    def _judge_texts(
        self, codes: FeatureCodes, kept_back: Picks, fires: Array, like: Array, start: int
    ) -> list[dict[str, Any]]:
        """Held-out texts: clearly firing ones over the ranks, then silent random, then silent near ones."""
        firing = spread(clearly_firing(kept_back, float(codes.values.max(initial=0)), JUDGE_TEXTS), JUDGE_TEXTS)
        pool = self.judge_pool
        random, near = pool.choose(codes, fires, like, count=JUDGE_TEXTS, near=JUDGE_TEXTS // 2, start=start)
        texts = self.renderer.texts(firing.docs.tolist(), firing.tokens.tolist())
        out: list[dict[str, Any]] = [
            {"text": text, "activation": number(value), "near": False}
            for text, value in zip(texts, firing.values.tolist(), strict=True)
        ]
        for chosen, is_near in ((random, False), (near, True)):
            silent = self.renderer.texts(pool.docs[chosen].tolist(), pool.tokens[chosen].tolist())
            out += [{"text": text, "activation": 0.0, "near": is_near} for text in silent]
        return out

    def _drivers(self, codes: FeatureCodes, kept: Array) -> list[dict[str, Any]]:
        """Words by their share of the activation in evidence documents; "" for a token in no word."""
        units, owners = np.unique(self.index.token_unit[codes.positions[kept]], return_inverse=True)
        mass = np.bincount(owners, codes.values[kept].astype(np.float64), minlength=len(units))
        total = max(1e-12, float(mass.sum()))
        order = np.argsort(-mass, kind="stable")[:_DRIVERS]
        return [
            {"word": self.index.unit_text(int(units[at])), "share": number(float(mass[at]) / total)} for at in order
        ]

    def _statistics(self, codes: FeatureCodes, documents: int) -> dict[str, Any]:
        """Figures over all tokens; see ActivationStatistics."""
        values, tokens = codes.values.astype(np.float64), max(1, self.codes.n_tokens)
        largest = float(values.max(initial=0.0))
        scale = HISTOGRAM_BINS / largest if largest > 0 else 0.0
        bins = np.minimum((values * scale).astype(np.int64), HISTOGRAM_BINS - 1)
        return {
            "mean": number(float(values.mean())) if len(values) else 0.0,
            "std": number(float(values.std())) if len(values) else 0.0,
            "frequency": number(len(values) / tokens),
            "max": number(largest),
            "count": len(values),
            "documents": documents,
            "histogram_edges": [number(largest * i / HISTOGRAM_BINS) for i in range(HISTOGRAM_BINS + 1)],
            "histogram_counts": np.bincount(bins, minlength=HISTOGRAM_BINS).tolist(),
        }
