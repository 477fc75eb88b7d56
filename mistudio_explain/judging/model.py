"""The model judge: a language model says which held-out texts fit an explanation.

Method `model-auroc/1`, defined in docs/metrics.md. Owns what is asked and how answers are read; an
answer that cannot be read scores no text, and its texts are counted as failures.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mistudio_explain.defusing import defuse, plain
from mistudio_explain.engines.base import ChatRequest, Engine, Reply
from mistudio_explain.evidence import FeatureEvidence, JudgeText
from mistudio_explain.explainer import Draft
from mistudio_explain.judging.base import Accuracy, accuracy_of
from mistudio_explain.prompting import CHARACTERS_A_TOKEN, marker_of, template

METHOD = "model-auroc/1"
"""Name and version of the measure; the model's name stands behind it in results."""
BATCH = 10
"""Texts that are asked about at a time, fewer where the context is short."""
JUDGE_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"text": {"type": "integer"}, "fits": {"type": "number"}},
                "required": ["text", "fits"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}
"""JSON schema of an answer."""
_LONGEST_TEXT, _LONGEST_EXPLANATION, _LONGEST_METHOD = 800, 2000, 100
_TOKENS_AN_ENTRY, _OWN_TOKENS = 16, 400
_WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}


class ModelJudge:
    """Asks a model, a batch of texts at a time, in a random order."""

    def __init__(self, engine: Engine) -> None:
        """`engine` is not closed by the judge: whoever made it does."""
        self._engine = engine
        self.method = f"{METHOD} ({engine.model})"[:_LONGEST_METHOD]

    async def check(self) -> None:
        """See Judge."""
        await self._engine.check()

    async def close(self) -> None:
        """Holds nothing of its own."""

    async def accuracy(
        self, draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], *, seed: int
    ) -> Accuracy:
        """See Judge: texts of every kind are mixed, so that no place in the order says which kind it is."""
        own = seed + evidence.feature_id
        order = list(range(len(evidence.judge)))
        random.Random(own).shuffle(order)  # an order, no secret
        size = self._batch()
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        replies = await asyncio.gather(*(self._ask(draft, evidence, batch, own) for batch in batches))
        scores: list[float | None] = [None] * len(order)
        for batch, reply in zip(batches, replies, strict=True):
            for text, fits in zip(batch, read_fits(reply.text, len(batch)) if reply else (), strict=False):
                scores[text] = fits
        found = accuracy_of(self.method, evidence.judge, scores, seed=own)
        return replace(
            found,
            prompt_tokens=sum(r.prompt_tokens for r in replies if r),
            completion_tokens=sum(r.completion_tokens for r in replies if r),
            cost_usd=sum(r.cost_usd for r in replies if r),
        )

    def _batch(self) -> int:
        """Texts at a time that surely fit, question and answer."""
        limits = self._engine.limits
        most = max(1, min(BATCH, limits.max_output_tokens // _TOKENS_AN_ENTRY))
        if not limits.context_tokens:
            return most
        room = limits.context_tokens - limits.max_output_tokens - _OWN_TOKENS
        return max(1, min(most, int(room * CHARACTERS_A_TOKEN) // _LONGEST_TEXT))

    async def _ask(self, draft: Draft, evidence: FeatureEvidence, batch: Sequence[int], seed: int) -> Reply | None:
        """The engine's reply; None where it failed."""
        request = judge_request(draft, [evidence.judge[i] for i in batch], seed=seed, number=batch[0])
        request = replace(request, max_output_tokens=self._engine.limits.max_output_tokens)
        outcome = await self._engine.chat(request)
        return outcome if isinstance(outcome, Reply) else None


def judge_request(draft: Draft, texts: Sequence[JudgeText], *, seed: int, number: int) -> ChatRequest:
    """The question about these texts: explanation and texts are data between markers of this call."""
    values = {
        "explanation": _line(draft.explanation)[:_LONGEST_EXPLANATION],
        "keywords": ", ".join(f'"{_line(k)}"' for k in draft.keywords) or "(none)",
        "texts": "\n".join(f"{n}. {_line(t.text)}" for n, t in enumerate(texts, 1)),
        "count": str(len(texts)),
    }
    marker = marker_of(json.dumps(values), seed, number)
    return ChatRequest(
        system=template("judge_system.v1").substitute().strip(),
        prompt=template("judge.v1").substitute(values, marker=marker).strip(),
        schema=JUDGE_SCHEMA,
        seed=seed,
    )


def _line(text: str) -> str:
    return defuse(" ".join(plain(text).split())[:_LONGEST_TEXT])


def read_fits(answer: str, count: int) -> list[float | None]:
    """How well each of `count` texts fits, 0 to 1; None for one without exactly one usable entry."""
    try:
        body: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return [None] * count
    entries = body.get("texts") if isinstance(body, dict) else None
    given: dict[int, list[float | None]] = {}
    for entry in entries if isinstance(entries, list) else ():
        number = entry.get("text") if isinstance(entry, dict) else None
        if isinstance(number, int) and not isinstance(number, bool):
            given.setdefault(number, []).append(_fits(entry.get("fits")))
    return [found[0] if len(found := given.get(n, [])) == 1 else None for n in range(1, count + 1)]


def usable(answer: str) -> bool:
    """Whether an answer scores at least one text: what a cache may keep."""
    return read_fits(answer, 1)[0] is not None


def _fits(value: object) -> float | None:
    """A number from 0 to 1, or yes and no; everything else is no answer."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().casefold())
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return None
