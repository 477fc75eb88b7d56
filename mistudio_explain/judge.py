"""The lexical judge: does an explanation tell held-out texts apart? No model, no evidence.

It sees the explanation's words and the words listed with it, nothing that the explainer saw, and
scores texts that the explainer did not. Method `lexical-auroc/1`, defined in docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from mistudio_core.corpus.words import stem, words
from mistudio_core.stats import auroc, auroc_interval
from mistudio_explain.evidence import JudgeText

METHOD = "lexical-auroc/1"
"""Name and version of the measure."""
_QUOTED, _LISTED, _PLAIN = 1.0, 0.7, 0.25
_QUOTES = re.compile(r"[\"“„«]([^\"“”„«»]{1,80})[\"”»]")
_stem = lru_cache(maxsize=100_000)(stem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """How well an explanation tells held-out texts apart."""

    value: float
    """AUROC against random silent texts; 0.5 where a side is empty."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    activating: int
    """Texts on which the feature fires."""
    silent: int
    """Random texts on which it is silent."""
    near: float | None
    """AUROC against silent texts of like topic; None where there are none."""


@lru_cache(maxsize=1)
def _boilerplate() -> frozenset[str]:
    """Stems of what explanations say about features in general: they describe no text."""
    path = resources.files("mistudio_explain").joinpath("rules/boilerplate.v1.txt")
    return frozenset(map(stem, path.read_text(encoding="utf-8").split()))


@lru_cache(maxsize=4096)
def stems(text: str) -> frozenset[str]:
    """Stems of a text's words; texts come back often, so the last 4,096 are kept."""
    return frozenset(_stem(word) for word, _, _ in words(text))


def terms(explanation: str, listed: Sequence[str], idf: Callable[[str], float]) -> dict[str, float]:
    """Weight by stem: quoted words 1, listed 0.7, other words 0.25, times idf; boilerplate left out."""
    found: dict[str, float] = {}
    quoted = " . ".join(_QUOTES.findall(explanation))
    for source, weight in ((quoted, _QUOTED), (" . ".join(listed), _LISTED), (_QUOTES.sub(" ", explanation), _PLAIN)):
        for word, _, _ in words(source):
            key = stem(word)
            # A quoted or listed word was chosen: only prose is searched for boilerplate.
            if weight == _PLAIN and (key in _boilerplate() or word.isdigit()):
                continue
            found[key] = max(found.get(key, 0.0), weight * max(0.05, idf(word)))
    return found


def score(text: str, weights: Mapping[str, float]) -> float:
    """Sum of the weights of the terms that the text holds; a quarter for those inside of a longer word."""
    here = stems(text)
    total = sum(weight for key, weight in weights.items() if key in here)
    parts = [(k, w) for k, w in weights.items() if k not in here and len(k) >= 3]
    return total + 0.25 * sum(w for k, w in parts if any(k in word for word in here))


def judge(
    explanation: str, listed: Sequence[str], texts: Sequence[JudgeText], idf: Callable[[str], float], *, seed: int
) -> Accuracy:
    """AUROC of `score` over held-out activating against silent texts, with a bootstrap interval."""
    weights = terms(explanation, listed, idf)
    firing = [score(t.text, weights) for t in texts if t.activation > 0]
    silent = [score(t.text, weights) for t in texts if t.activation <= 0 and not t.near]
    near = [score(t.text, weights) for t in texts if t.activation <= 0 and t.near]
    low, high = auroc_interval(firing, silent, seed=seed)
    return Accuracy(
        value=auroc(firing, silent),
        low=low,
        high=high,
        activating=len(firing),
        silent=len(silent),
        near=auroc(firing, near) if firing and near else None,
    )
