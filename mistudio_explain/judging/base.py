"""What a judge is: one Protocol, its figure, and how scores of held-out texts become it.

A judge sees an explanation, the words listed with it, and texts that no explainer saw; it scores the
texts. Owns the figure and its interval, not the scoring: see the files beside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mistudio_core.stats import auroc, auroc_interval
from mistudio_explain.evidence import FeatureEvidence, JudgeText
from mistudio_explain.explainer import Draft


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
    """Texts on which the feature fires that were scored."""
    silent: int
    """Random texts on which it is silent that were scored."""
    near: float | None
    """AUROC against silent texts of like topic; None where there are none."""
    method: str
    """Name and version of the measure."""
    failures: int = 0
    """Texts that got no usable score; they enter no figure."""
    prompt_tokens: int = 0
    """Tokens of the judge's prompts."""
    completion_tokens: int = 0
    """Tokens of its answers."""
    cost_usd: float = 0.0
    """US dollars that they cost at a provider."""


class Judge(Protocol):
    """Scores held-out texts by an explanation; `accuracy` may be called concurrently."""

    @property
    def method(self) -> str:
        """Name and version of the measure, stored with every figure."""
        ...

    async def check(self) -> None:
        """Whether it can judge at all. Raises Unavailable, NotFound or Unsupported with how to fix it."""
        ...

    async def accuracy(
        self, draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], *, seed: int
    ) -> Accuracy:
        """How well the draft tells `evidence.judge` apart; `seed` decides orders and the interval. Never raises."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...


def accuracy_of(method: str, texts: Sequence[JudgeText], scores: Sequence[float | None], *, seed: int) -> Accuracy:
    """The figure of one score a text, None for a text without a usable one: those are counted and left out."""
    given = [(t, s) for t, s in zip(texts, scores, strict=True) if s is not None]
    firing = [s for t, s in given if t.activation > 0]
    silent = [s for t, s in given if t.activation <= 0 and not t.near]
    near = [s for t, s in given if t.activation <= 0 and t.near]
    low, high = auroc_interval(firing, silent, seed=seed)
    return Accuracy(
        value=auroc(firing, silent),
        low=low,
        high=high,
        activating=len(firing),
        silent=len(silent),
        near=auroc(firing, near) if firing and near else None,
        method=method,
        failures=len(texts) - len(given),
    )


async def shuffled_control(
    judge: Judge, pairs: Sequence[tuple[Draft, FeatureEvidence]], idf: Callable[[str], float], *, seed: int
) -> list[Accuracy]:
    """Each feature's texts judged by another feature's explanation: near 0.5 on average where the measure can tell.

    The assignment is a random cycle, so that no feature keeps its own. Raises ValueError for fewer than two.
    """
    if len(pairs) < 2:
        raise ValueError("a shuffled assignment needs two explanations")
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)  # an order, no secret
    other = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [await judge.accuracy(pairs[other[i]][0], pairs[i][1], idf, seed=seed) for i in range(len(pairs))]
