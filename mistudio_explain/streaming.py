"""One explanation while it is written: its pieces as text, then the whole with its quality.

A model answers in JSON; people are shown the explanation in it, decoded as it comes. What is written
here is not stored. Owns the order of things and the decoding; engine, prompt and measures are those of runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from mistudio_core.errors import LimitReached, NotFound, Unavailable, Unsupported
from mistudio_explain.chat_explainer import ChatExplainer
from mistudio_explain.config import ExplainConfig, Explanation
from mistudio_explain.engines.base import Failure
from mistudio_explain.engines.factory import create_engine, create_explainer
from mistudio_explain.engines.table import LEXICAL, EngineSettings
from mistudio_explain.evidence import FeatureEvidence, FindEvidence
from mistudio_explain.explainer import Draft, Explainer
from mistudio_explain.insights import reasons
from mistudio_explain.judging import create_judge
from mistudio_explain.policy.budget import Budget
from mistudio_explain.policy.guarded import GuardedEngine, Guards
from mistudio_explain.policy.pool import check_budget
from mistudio_explain.quality import assess

_OPENING = re.compile(r'"explanation"\s*:\s*"')
_ESCAPE = 6
_PIECE = re.compile(r"\S+\s*")


class ExplanationText:
    """Takes the explanation out of a JSON answer as it grows."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._raw = ""
        self._at = -1
        self._ended = False

    def feed(self, piece: str) -> str:
        """What the piece adds to the explanation, decoded; empty before it begins and behind its end."""
        self._raw += piece
        if self._at < 0:
            opening = _OPENING.search(self._raw)
            if opening is None:
                return ""
            self._at = opening.end()
        if self._ended:
            return ""
        start = at = self._at
        while at < len(self._raw):
            sign = self._raw[at]
            if sign == '"':
                self._ended = True
                break
            step = self._escaped(at) if sign == "\\" else 1
            if at + step > len(self._raw):  # the rest of an escape has not come
                break
            at += step
        self._at = at
        return _decoded(self._raw[start:at])

    def _escaped(self, at: int) -> int:
        """Characters of the escape at a place; a first half of a surrogate pair takes its second half with it."""
        if self._raw[at + 1 : at + 2] != "u":
            return 2
        high = self._raw[at + 2 : at + 4].lower() in ("d8", "d9", "da", "db")
        return 2 * _ESCAPE if high else _ESCAPE


def _decoded(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False)).encode("utf-8", "replace").decode()
    except ValueError:  # no JSON escape: shown as it came; the whole answer is judged at its end
        return text


def explainer_of(settings: EngineSettings, config: ExplainConfig, find: FindEvidence) -> Explainer:
    """Who explains: the engine inside its limits. Raises Unavailable; InvalidInput for a paid one without a budget."""
    if settings.kind == LEXICAL:
        return create_explainer(settings, config)
    check_budget(settings, config.budget_usd)
    engine = GuardedEngine(
        create_engine(settings, model=config.model),
        settings,
        guards=Guards.of(settings, 1),
        budget=Budget(config.budget_usd),
    )
    return create_explainer(settings, config, engine=engine, pair_of=find.neighbour_of)


async def explain_feature(
    explainer: Explainer, evidence: FeatureEvidence, find: FindEvidence, config: ExplainConfig
) -> AsyncGenerator[str | Explanation, None]:
    """Pieces of the explanation, then the whole with its quality. Closes the explainer at its end, however it ends.

    Raises Unavailable, NotFound (MODEL_NOT_FOUND), LimitReached, Unsupported as the engine says.
    """
    try:
        await explainer.check()
        outcome: Draft | Failure | None = None
        async with aclosing(_pieces(explainer, evidence, config)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece
                else:
                    outcome = piece
        if not isinstance(outcome, Draft):
            raise _problem(outcome, explainer.name)
        judge = create_judge(LEXICAL)
        accuracy = await judge.accuracy(outcome, evidence, find.idf, seed=config.seed + evidence.feature_id)
        found = assess(outcome, evidence, find.idf, accuracy, engine=explainer.name, model=outcome.model)
        yield replace(found, flags=reasons(found))
    finally:
        await explainer.close()


async def _pieces(
    explainer: Explainer, evidence: FeatureEvidence, config: ExplainConfig
) -> AsyncGenerator[str | Draft | Failure, None]:
    if not isinstance(explainer, ChatExplainer):
        outcome = await explainer.explain(evidence, strategy=config.strategy, seed=config.seed)
        for piece in _PIECE.findall(outcome.explanation) if isinstance(outcome, Draft) else ():
            yield piece
        yield outcome
        return
    shown = ExplanationText()
    async with aclosing(explainer.stream(evidence, strategy=config.strategy, seed=config.seed)) as stream:
        async for piece in stream:
            if not isinstance(piece, str):
                yield piece
            elif text := shown.feed(piece):
                yield text


def _problem(failure: Failure | None, engine: str) -> Exception:
    facts = {"engine": engine}
    if failure is None:
        return Unavailable(f"The engine {engine!r} ended without an answer.", reason="ENGINE_UNAVAILABLE", facts=facts)
    if failure.kind == "model_missing":
        return NotFound(failure.message, reason="MODEL_NOT_FOUND", facts=facts)
    if failure.kind == "over_budget":
        return LimitReached(failure.message, facts=facts)
    if failure.kind == "context_too_small":
        return Unsupported("this feature", why=failure.message, instead="Use a model with a longer context.")
    return Unavailable(failure.message, reason="ENGINE_UNAVAILABLE", facts={**facts, "kind": failure.kind})
