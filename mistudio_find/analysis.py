"""From what the survey found to the record of all evidence about a feature.

Joins the domain parts (survey, keywords, coherence, categories, phrases, associations, render); owns
the record's fields, whose meanings are those of mistudio.feature.v1.Feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio_find.coherence import FOLLOWING, CoherenceMeter, tier
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import Picks, SilentPools, Survey
from mistudio_find.judgement import Evidence, Judge, runs_of
from mistudio_find.keywords import Keyword, keywords, window_words
from mistudio_find.passes import BINS
from mistudio_find.phrases import Phrases
from mistudio_find.relations import Relations
from mistudio_find.render import Renderer, number
from mistudio_torch.codes import CodesReader, FeatureCodes

_ENOUGH = 5.0
"""Top texts at which half of the confidence is reached."""
_TOGETHER_ACTIVATIONS, _TOGETHER = 1 << 21, 64
"""Features that are measured together have at most so many activations, or are one, and are at most so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analyst:
    """Everything that is made once a job and used for every feature."""

    codes: CodesReader
    """The activations."""
    index: CorpusIndex
    """The corpus as numbers."""
    survey: Survey
    """Picks and figures of every feature."""
    phrases: Phrases
    """Runs of words of every feature."""
    q_values: Array
    """float64 (F, n): of the survey's associations."""
    carried: Sequence[tuple[str, str, int]]
    """(column, value, documents) that associations name."""
    meter: CoherenceMeter
    """Measures coherence."""
    pools: SilentPools
    """Windows for contrast texts and silent judging texts."""
    judge: Judge
    """Applies the rules of categories, tags, behaviours and complexity."""
    importance: Array
    """float64 (F,): see the contract."""
    relations: Relations
    """How features relate to each other and to tokens."""
    renderer: Renderer
    """Cuts texts."""
    config: FindConfig
    """What was asked for."""
    sae_sha256: str
    """With the feature's index its name."""

    def records(self, first: int) -> Iterator[dict[str, Any]]:
        """The records of the features from `first` on; `judge_texts` is the last key of each."""
        for low, high in self.codes.ranges(_TOGETHER_ACTIVATIONS, _TOGETHER):
            if high > first:
                yield from self._together(max(first, low), high)

    def _together(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        """The records of the features first..last-1; what is measured of all of them at once."""
        codes = [self.codes.feature(feature) for feature in range(first, last)]
        picked = [self._picked(feature, own) for feature, own in zip(range(first, last), codes, strict=True)]
        tops = [self.renderer.activations(own, picks[0]) for own, picks in zip(codes, picked, strict=True)]
        strong = slice(first, last)
        words = keywords(self.index, self.survey.strong[strong], self.survey.strong_value[strong], self.config.keywords)
        measured = self._coherences(first, [picks[0].tokens for picks in picked])
        evidence = [
            self._evidence([k.word for k in found], picks[0], top, own)
            for found, picks, top, own in zip(words, picked, tops, codes, strict=True)
        ]
        abouts = self.judge.about(evidence)
        for at, feature in enumerate(range(first, last)):
            values = (codes[at], picked[at], tops[at], words[at], measured[at].tolist(), abouts[at])
            yield self._record(feature, *values)

    def _record(
        self,
        feature: int,
        codes: FeatureCodes,
        picked: Sequence[Picks],
        rendered: list[dict[str, Any]],
        found: Sequence[Keyword],
        coherences: Sequence[float],
        about: dict[str, Any],
    ) -> dict[str, Any]:
        """One record; `picked` are its top, quantile, judging tokens and outliers."""
        top, weaker, judged, outliers = picked
        whole, *halves = coherences
        random, near = (self.pool_texts(places[feature], judge=False) for places in self.survey.silent)
        return {
            "feature_id": feature,
            "coherence_score": number(whole),
            "quality_level": tier(number(whole)),
            "pattern_category": about.pop("pattern_category"),
            "category_confidence": about.pop("category_confidence"),
            "pattern_keywords": [k.word for k in found],
            "keyword_scores": [k.score for k in found],
            "top_activations": rendered,
            "activation_statistics": self._statistics(feature),
            "dead": not self.survey.count[feature],
            "complexity": about.pop("complexity"),
            "sae_sha256": self.sae_sha256,
            "quantile_activations": self.renderer.activations(codes, weaker),
            "contrast_texts": random + near,
            "near_contrast_texts": len(near),
            "confidence": _confidence(len(top), *halves),
            "importance": number(float(self.importance[feature])),
            "driving_tokens": self._drivers(feature),
            "driving_phrases": [
                {"text": text, "count": count, "share": number(share), "lift": number(lift)}
                for text, count, share, lift in self.phrases.of(self.index, feature)
            ],
            "spread": self._spread(feature),
            "outliers": self._outliers(feature, outliers),
            **about,
            "diversity": self._diversity(feature) if len(top) > 1 else 0.0,
            "associations": self._associations(feature),
            **self.relations.of(feature),
            "judge_texts": self._judge_texts(feature, judged),
        }

    def pool_texts(self, places: Array, *, judge: bool) -> list[str]:
        """The windows at these places of the evidence or the judge pool."""
        at = places[places >= 0] + (self.pools.evidence if judge else 0)
        return self.renderer.texts(self.pools.docs[at].tolist(), self.pools.tokens[at].tolist())

    def _picked(self, feature: int, codes: FeatureCodes) -> list[Picks]:
        """Top, quantile and judging tokens and outliers, with their documents and activations."""
        survey = self.survey
        rows = [places[feature] for places in (survey.top, survey.quantile, survey.judged, survey.outlier)]
        rows = [tokens[tokens >= 0] for tokens in rows]
        tokens = np.concatenate(rows)
        values = codes.values[np.searchsorted(codes.positions, tokens)]
        docs = self.index.token_doc[tokens].astype(np.int64)
        ends = np.cumsum([len(row) for row in rows]).tolist()
        parts = [slice(end - len(row), end) for row, end in zip(rows, ends, strict=True)]
        return [Picks(docs=docs[part], tokens=tokens[part], values=values[part]) for part in parts]

    def _coherences(self, first: int, tops: Sequence[Array]) -> Array:
        """float64 (n, 3): coherence of the top texts of features from `first` on, and of every other one of them.

        Beside the first stand the strongest tokens of the documents after the top texts.
        """
        parts, texts = [], []
        for feature, top in enumerate(tops, first):
            strong = self.survey.strong[feature]
            after = strong[(strong >= 0) & ~(strong[:, None] == top).any(axis=1)][:FOLLOWING]
            parts += [np.concatenate([top, after]), top[::2], top[1::2]]
            texts += [len(top), len(parts[-2]), len(parts[-1])]
        bounds = np.cumsum([0, *map(len, parts)])
        return self.meter.measure_many(np.concatenate(parts), bounds, bounds[:-1] + texts).reshape(-1, 3)

    def _evidence(
        self, words: Sequence[str], top: Picks, rendered: Sequence[Mapping[str, Any]], codes: FeatureCodes
    ) -> Evidence:
        """What category, tags, behaviours and complexity are judged by."""
        index, starts = self.index, self.codes.doc_token_offsets
        ids, inside = window_words(index, top.tokens, top.docs)
        return Evidence(
            keywords=words,
            words=ids,
            inside=inside,
            texts=[text["text"] for text in rendered],
            units=index.token_unit[top.tokens],
            spans=runs_of(codes.positions, top.tokens, index.token_doc),
            places=(top.tokens - starts[top.docs]) / np.maximum(1, starts[top.docs + 1] - starts[top.docs]),
        )

    def _judge_texts(self, feature: int, firing: Picks) -> list[dict[str, Any]]:
        """Held-out texts: clearly firing ones over the ranks, then silent random, then silent near ones."""
        texts = self.renderer.texts(firing.docs.tolist(), firing.tokens.tolist())
        out: list[dict[str, Any]] = [
            {"text": text, "activation": number(value), "near": False}
            for text, value in zip(texts, firing.values.tolist(), strict=True)
        ]
        for places, is_near in zip(self.survey.judge_silent, (False, True), strict=True):
            silent = self.pool_texts(places[feature], judge=True)
            out += [{"text": text, "activation": 0.0, "near": is_near} for text in silent]
        return out

    def _diversity(self, feature: int) -> float:
        return number(1 - min(1.0, max(0.0, float(self.survey.likeness[feature]))))

    def _drivers(self, feature: int) -> list[dict[str, Any]]:
        """Words, or tokens in no word, by their share of the activation in evidence documents."""
        survey, index = self.survey, self.index
        fired, mass = survey.evidence[feature]
        out = []
        columns = survey.driver, survey.driver_count, survey.driver_mass
        for unit, count, part in zip(*(c[feature].tolist() for c in columns), strict=True):
            if unit < 0:
                break
            text = index.unit_text(unit) or self.renderer.token(index.sample[unit])
            lift = (count / fired) / max(1e-12, index.unit_counts[unit] / max(1, index.evidence_tokens))
            out.append({"text": text, "count": count, "share": number(part / mass), "lift": number(lift)})
        return out

    def _spread(self, feature: int) -> dict[str, Any]:
        survey = self.survey
        total, documents = float(survey.moments[feature, 0]), int(survey.documents[feature])
        return {
            "tenths": survey.tenths[feature].tolist(),
            "first_token_share": number(float(survey.first[feature]) / total) if total else 0.0,
            "document_share": number(documents / max(1, self.codes.n_documents)),
            "tokens_a_document": number(int(survey.count[feature]) / documents) if documents else 0.0,
        }

    def _outliers(self, feature: int, picks: Picks) -> list[dict[str, Any]]:
        places = (picks.tokens - self.codes.doc_token_offsets[picks.docs]).tolist()
        away = self.survey.outlier_away[feature].tolist()
        return [
            {"document": doc, "position": place, "activation": number(value), "deviations": number(far)}
            for doc, place, value, far in zip(picks.docs.tolist(), places, picks.values.tolist(), away, strict=False)
        ]

    def _associations(self, feature: int) -> list[dict[str, Any]]:
        found = self.survey.associations
        columns = (found.value, found.auroc, found.lift, self.q_values)
        out = []
        for value, *figures in zip(*(column[feature].tolist() for column in columns), strict=True):
            if value < 0:
                continue
            column, name, documents = self.carried[value]
            auroc, lift, q = map(number, figures)
            out.append(
                {"column": column, "value": name, "auroc": auroc, "lift": lift, "q_value": q, "documents": documents}
            )
        return out

    def _statistics(self, feature: int) -> dict[str, Any]:
        """Figures over all tokens; see ActivationStatistics."""
        survey, n = self.survey, int(self.survey.count[feature])
        total, largest, square, cube = survey.moments[feature].tolist()
        deviation = (square / n) ** 0.5 if n else 0.0
        return {
            "mean": number(total / n) if n else 0.0,
            "std": number(deviation),
            "frequency": number(n / max(1, self.codes.n_tokens)),
            "max": number(largest),
            "count": n,
            "documents": int(survey.documents[feature]),
            "histogram_edges": [number(largest * i / BINS) for i in range(BINS + 1)],
            "histogram_counts": survey.histogram[feature].tolist(),
            "skew": number(cube / n / deviation**3) if deviation > 1e-9 * largest else 0.0,
        }


def _confidence(n: int, one: float, other: float) -> float:
    """For n top texts n / (n + 5) times one less the difference of the coherences of every other text."""
    return number(n / (n + _ENOUGH) * (1 - abs(one - other)))
