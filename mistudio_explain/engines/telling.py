"""Which words and signs tell a feature's texts from others: the lexical engine's arithmetic.

Estimates for every candidate how many firing and how many silent texts hold it, and picks few that
together tell most. Owns estimates and choice, not sentences; held-out texts never come here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_core.corpus.words import words
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.judging.reading import known_stem, stems

MOST_QUOTED, MOST_LISTED = 6, 10
"""Chosen candidates: the first ones are put between quotes, the others listed."""
_LETTER = re.compile(r"\w")
_WEAK_WEIGHT, _CLEAR_SHARE = 2.0, 0.25
_PRIOR, _SILENT_PRIOR = 6.0, 30.0
_DRIVER_WEIGHT, _SEEN = 4.0, 0.3
_LEAST_GAIN, _LEAST_RATIO, _LEAST_PART, _EDGE = 0.02, 1.5, 0.02, 0.01
_CEILING = 0.98


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A word or a sign that may tell."""

    text: str
    """The commonest form of the word, casefolded, or the sign."""
    key: str
    """Its stem; the sign itself."""
    forms: tuple[str, ...]
    """Forms of the word in firing texts, commonest first; one for a sign."""
    firing: float
    """Estimated share of firing texts that hold it."""
    silent: float
    """Estimated share of silent texts that hold it."""
    driving: float
    """Its share of the feature's activation."""

    @property
    def is_sign(self) -> bool:
        """Whether it has no letter or digit."""
        return not _LETTER.search(self.text)


def candidates(evidence: FeatureEvidence) -> list[Candidate]:
    """All words and signs of the top texts and the drivers that stand clearly more often in firing texts.

    Firing: 0.3 of the share of top texts (weight 1) and clear quantile texts (weight 2), drawn to the corpus'
    share by 6 texts, and 0.7 of four times the driver's share of the activation, or chance. Silent: the corpus'
    share of documents times the share of the driver's tokens on which it is silent (a prior of 30 texts), with
    the contrast texts.
    """
    strongest = max((max(t.activations, default=0.0) for t in evidence.top), default=0.0)
    clear = [t for t in evidence.quantiles if max(t.activations, default=0.0) >= _CLEAR_SHARE * strongest]
    weighted = [(t.text, 1.0) for t in evidence.top] + [(t.text, _WEAK_WEIGHT) for t in clear]
    found = [*_words(evidence, weighted), *_signs(evidence, weighted)]
    kept = [c for c in found if c.firing - c.silent > _LEAST_GAIN and c.firing > _LEAST_RATIO * (c.silent + 0.01)]
    return sorted(kept, key=lambda c: (-(c.firing - c.silent), c.text))


def _words(evidence: FeatureEvidence, weighted: Sequence[tuple[str, float]]) -> list[Candidate]:
    total = sum(weight for _, weight in weighted) + _PRIOR
    forms: dict[str, Counter[str]] = {}
    hits: dict[str, float] = {}
    for text, weight in weighted:
        for word, _, _ in words(text):
            forms.setdefault(known_stem(word), Counter())[word] += 1
        for key in stems(text):
            hits[key] = hits.get(key, 0.0) + weight
    share, silent_on = _drivers(evidence, forms)
    contrast = [stems(t) for t in evidence.contrast]
    out = []
    for key, seen in forms.items():
        background = min(_CEILING, sum(evidence.document_share(w) for w in seen))
        firing = _firing((hits.get(key, 0.0) + _PRIOR * background) / total, background, share.get(key, 0.0))
        there = sum(key in t for t in contrast)
        expected = _SILENT_PRIOR * background * silent_on.get(key, 1.0)
        text = seen.most_common(1)[0][0]
        out.append(
            Candidate(
                text=text,
                key=key,
                forms=tuple(w for w, _ in seen.most_common()),
                firing=firing,
                silent=(expected + there) / (_SILENT_PRIOR + len(contrast)),
                driving=share.get(key, 0.0),
            )
        )
    return out


def _drivers(evidence: FeatureEvidence, forms: dict[str, Counter[str]]) -> tuple[dict[str, float], dict[str, float]]:
    """(share of the activation, share of its tokens on which the feature is silent) by stem."""
    share: dict[str, float] = {}
    silent_on: dict[str, float] = {}
    frequency = float(evidence.statistics.get("frequency", 0.0))
    for driver in evidence.driving:
        if driver.is_word:
            key = known_stem(driver.text)
            share[key] = share.get(key, 0.0) + driver.share
            silent_on[key] = min(silent_on.get(key, 1.0), _silent_on(driver.lift, frequency))
            forms.setdefault(key, Counter())[driver.text] += 3
    return share, silent_on


def _silent_on(lift: float, frequency: float) -> float:
    """Share of a driver's tokens on which the feature is silent: lift x frequency is that on which it fires."""
    return 1 - min(1.0, lift * frequency)


def _signs(evidence: FeatureEvidence, weighted: Sequence[tuple[str, float]]) -> list[Candidate]:
    total = sum(weight for _, weight in weighted) + 1
    share: dict[str, float] = {}
    for driver in evidence.driving:
        if driver.text and not _LETTER.search(driver.text):
            share[driver.text] = share.get(driver.text, 0.0) + driver.share
    out = []
    for sign, driving in share.items():
        there = sum(sign in t for t in evidence.contrast)
        hits = sum(weight for text, weight in weighted if sign in text)
        silent = (there + 0.5) / (len(evidence.contrast) + 1)
        out.append(
            Candidate(
                text=sign,
                key=sign,
                forms=(sign,),
                firing=_firing((hits + 0.5) / total, silent, driving),
                silent=silent,
                driving=driving,
            )
        )
    return out


def _firing(seen: float, background: float, driving: float) -> float:
    """Some firing texts are like the strongest, which were seen; the others hold what drives it, or chance words."""
    weak = background + (1 - background) * min(1.0, _DRIVER_WEIGHT * driving)
    return min(_CEILING, _SEEN * seen + (1 - _SEEN) * weak)


def choose(found: Sequence[Candidate], first: Sequence[str] = ()) -> list[Candidate]:
    """The most telling ones, best first: at most 16, none that tells less than a fiftieth of the best.

    What one tells is the Kullback-Leibler divergence of its share in firing texts from that in silent ones.
    Candidates with a key of `first` stand before all others.
    """
    ranked = sorted(((_information(c), c) for c in found), key=lambda r: (r[1].key not in first, -r[0], r[1].text))
    least = _LEAST_PART * max((value for value, _ in ranked), default=0.0)
    return [c for value, c in ranked if value >= least or c.key in first][: MOST_QUOTED + MOST_LISTED]


def _information(c: Candidate) -> float:
    """Divergence in nats of one yes or no, kept off 0 and 1 by a hundredth."""
    p, q = c.firing, c.silent
    yes = p * math.log((p + _EDGE) / (q + _EDGE))
    return yes + (1 - p) * math.log((1 - p + _EDGE) / (1 - q + _EDGE))
