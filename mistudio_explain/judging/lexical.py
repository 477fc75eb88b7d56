"""The lexical judge: does an explanation tell held-out texts apart? No model, no evidence.

It sees the explanation's words and the words listed with it, nothing that the explainer saw, and
scores texts that the explainer did not. Method `lexical-auroc/2`, defined in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mistudio_explain.evidence import FeatureEvidence, JudgeText
from mistudio_explain.explainer import Draft
from mistudio_explain.judging.base import Accuracy, accuracy_of
from mistudio_explain.judging.reading import read, score

METHOD = "lexical-auroc/2"
"""Name and version of the measure."""


def judge(
    explanation: str, listed: Sequence[str], texts: Sequence[JudgeText], idf: Callable[[str], float], *, seed: int
) -> Accuracy:
    """AUROC of `score` over held-out activating against silent texts, with a bootstrap interval."""
    reading = read(explanation, listed, idf)
    return accuracy_of(METHOD, texts, [score(t.text, reading) for t in texts], seed=seed)


class LexicalJudge:
    """Judges by words alone; never fails."""

    method = METHOD

    async def check(self) -> None:
        """Always there."""

    async def accuracy(
        self, draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], *, seed: int
    ) -> Accuracy:
        """See Judge."""
        return judge(draft.explanation, draft.keywords, evidence.judge, idf, seed=seed + evidence.feature_id)

    async def close(self) -> None:
        """Holds nothing."""
