"""From what the survey found to the record of all evidence about a feature.

Joins the domain parts (survey, keywords, coherence, categories, phrases, associations, render); owns
the record's fields, whose meanings are those of mistudio.feature.v1.Feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio_find.coherence import FOLLOWING, CoherenceMeter, tier
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import Picks, SilentPools, Survey
from mistudio_find.judgement import Evidence, Judge, runs_of
from mistudio_find.keywords import keywords, window_words
from mistudio_find.passes import BINS
from mistudio_find.phrases import Phrases
from mistudio_find.relations import Relations
from mistudio_find.render import Renderer, number
from mistudio_torch.codes import CodesReader, FeatureCodes

_ENOUGH = 5.0
"""Top texts at which half of the confidence is reached."""


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

    def analyse(self, feature: int) -> dict[str, Any]:
        """The record of a feature; `judge_texts` is its last key."""
        codes = self.codes.feature(feature)
        survey, index = self.survey, self.index
        top, weaker = (self._picks(places[feature], codes) for places in (survey.top, survey.quantile))
        coherence = number(self.meter.measure(top.tokens, self._following(feature, top)))
        found = keywords(index, self._strong(feature), self.config.keywords)
        rendered = self.renderer.activations(codes, top)
        about = self._about([k.word for k in found], top, [t["text"] for t in rendered], codes)
        dead = not survey.count[feature]
        random, near = (self.pool_texts(places[feature], judge=False) for places in survey.silent)
        return {
            "feature_id": feature,
            "coherence_score": coherence,
            "quality_level": tier(coherence),
            "pattern_category": about.pop("pattern_category"),
            "category_confidence": about.pop("category_confidence"),
            "pattern_keywords": [k.word for k in found],
            "keyword_scores": [k.score for k in found],
            "top_activations": rendered,
            "activation_statistics": self._statistics(feature),
            "dead": dead,
            "complexity": about.pop("complexity"),
            "sae_sha256": self.sae_sha256,
            "quantile_activations": self.renderer.activations(codes, weaker),
            "contrast_texts": random + near,
            "near_contrast_texts": len(near),
            "confidence": self._confidence(top),
            "importance": number(float(self.importance[feature])),
            "driving_tokens": self._drivers(feature),
            "driving_phrases": [
                {"text": text, "count": count, "share": number(share), "lift": number(lift)}
                for text, count, share, lift in self.phrases.of(index, feature)
            ],
            "spread": self._spread(feature),
            "outliers": self._outliers(feature, codes),
            **about,
            "diversity": number(1 - min(1.0, max(0.0, float(survey.likeness[feature])))) if len(top) > 1 else 0.0,
            "associations": self._associations(feature),
            **self.relations.of(feature),
            "judge_texts": self._judge_texts(feature, codes),
        }

    def pool_texts(self, places: Array, *, judge: bool) -> list[str]:
        """The windows at these places of the evidence or the judge pool."""
        at = places[places >= 0] + (self.pools.evidence if judge else 0)
        return self.renderer.texts(self.pools.docs[at].tolist(), self.pools.tokens[at].tolist())

    def _picks(self, tokens: Array, codes: FeatureCodes) -> Picks:
        """Picks with their documents and activations."""
        tokens = tokens[tokens >= 0]
        values = codes.values[np.searchsorted(codes.positions, tokens)]
        return Picks(docs=self.index.token_doc[tokens].astype(np.int64), tokens=tokens, values=values)

    def _strong(self, feature: int) -> Picks:
        tokens = self.survey.strong[feature]
        tokens = tokens[tokens >= 0]
        values = self.survey.strong_value[feature, : len(tokens)]
        return Picks(docs=self.index.token_doc[tokens].astype(np.int64), tokens=tokens, values=values)

    def _following(self, feature: int, top: Picks) -> Array:
        """The strongest tokens of the documents after the top texts."""
        tokens = self.survey.strong[feature]
        tokens = tokens[tokens >= 0]
        following: Array = tokens[~np.isin(tokens, top.tokens)][:FOLLOWING]
        return following

    def _confidence(self, top: Picks) -> float:
        """For n top texts n / (n + 5) times one less the difference of the coherences of every other text."""
        n = len(top)
        halves = [self.meter.measure(top.tokens[side::2]) for side in (0, 1)]
        return number(n / (n + _ENOUGH) * (1 - abs(halves[0] - halves[1])))

    def _about(self, words: Sequence[str], top: Picks, texts: Sequence[str], codes: FeatureCodes) -> dict[str, Any]:
        """Category, tags, behaviours and complexity."""
        index, starts = self.index, self.codes.doc_token_offsets
        ids, inside = window_words(index, top)
        given = Evidence(
            keywords=words,
            words=ids,
            inside=inside,
            texts=texts,
            units=index.token_unit[top.tokens],
            spans=runs_of(codes.positions, top.tokens, index.token_doc),
            places=(top.tokens - starts[top.docs]) / np.maximum(1, starts[top.docs + 1] - starts[top.docs]),
        )
        return self.judge.about(given)

    def _judge_texts(self, feature: int, codes: FeatureCodes) -> list[dict[str, Any]]:
        """Held-out texts: clearly firing ones over the ranks, then silent random, then silent near ones."""
        firing = self._picks(self.survey.judged[feature], codes)
        texts = self.renderer.texts(firing.docs.tolist(), firing.tokens.tolist())
        out: list[dict[str, Any]] = [
            {"text": text, "activation": number(value), "near": False}
            for text, value in zip(texts, firing.values.tolist(), strict=True)
        ]
        for places, is_near in zip(self.survey.judge_silent, (False, True), strict=True):
            silent = self.pool_texts(places[feature], judge=True)
            out += [{"text": text, "activation": 0.0, "near": is_near} for text in silent]
        return out

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

    def _outliers(self, feature: int, codes: FeatureCodes) -> list[dict[str, Any]]:
        picks = self._picks(self.survey.outlier[feature], codes)
        places = (picks.tokens - self.codes.doc_token_offsets[picks.docs]).tolist()
        away = self.survey.outlier_away[feature].tolist()
        return [
            {"document": doc, "position": place, "activation": number(value), "deviations": number(far)}
            for doc, place, value, far in zip(picks.docs.tolist(), places, picks.values.tolist(), away, strict=False)
        ]

    def _associations(self, feature: int) -> list[dict[str, Any]]:
        found = self.survey.associations
        out = []
        for at, value in enumerate(found.value[feature].tolist()):
            if value < 0:
                continue
            column, name, documents = self.carried[value]
            figures = found.auroc[feature, at], found.lift[feature, at], self.q_values[feature, at]
            auroc, lift, q = (number(float(x)) for x in figures)
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
