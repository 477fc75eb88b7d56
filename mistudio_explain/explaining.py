"""How one feature comes to its explanation: asked, judged, asked again, flagged.

Owns which engine and model is asked when: routing first, then the fallback model, then the engines of
the fallback order, then words alone where the request allows it. Order and concurrency are job.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mistudio_core.errors import MistudioError, Unavailable
from mistudio_explain import quality
from mistudio_explain.chat_explainer import ChatExplainer, PairOf
from mistudio_explain.config import ExplainConfig, Explanation
from mistudio_explain.engines.base import Failure
from mistudio_explain.engines.lexical import LexicalExplainer
from mistudio_explain.engines.settings import Engines, EngineSettings
from mistudio_explain.engines.table import LEXICAL, OLLAMA
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.explainer import Draft, Explainer
from mistudio_explain.few_shot import FewShot
from mistudio_explain.judging import Judge
from mistudio_explain.policy.budget import NANO, worst_cost
from mistudio_explain.policy.pool import EnginePool
from mistudio_explain.policy.routing import FALLBACK
from mistudio_explain.safety import SafetyRules

PAID_SHARE = 0.05
"""Engines that cost money stand in for fewer than this share of a run's features."""
_GONE = ("unreachable", "breaker_open", "timeout")
_POOR = "poor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An engine with a model that may be asked."""

    settings: EngineSettings
    """The engine."""
    model: str
    """Its model."""


class Explaining:
    """Explains the features of one run, any number at a time."""

    def __init__(
        self,
        config: ExplainConfig,
        engines: Engines,
        settings: EngineSettings,
        pool: EnginePool,
        *,
        idf: Callable[[str], float],
        total: int,
        few_shot: FewShot | None = None,
        pair_of: PairOf | None = None,
        safety: SafetyRules | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`settings` is the run's engine, `total` the number of its features; `log` takes warnings."""
        self._config, self._engines, self._settings, self._pool = config, engines, settings, pool
        self._idf, self._few_shot, self._pair_of, self._log = idf, few_shot, pair_of, log
        self._safety = safety
        self._paid_left = max(0, -int(-PAID_SHARE * total // 1) - 1)
        self._models: dict[str, list[str]] = {}
        self._lexical = LexicalExplainer()
        self._problems: dict[tuple[str, str], str] = {}
        """By engine and model, what their check said; "" as a model for all of an engine's."""
        self._checking = asyncio.Lock()

    async def check(self) -> None:
        """Whether the run's engine, or one that may stand in for it altogether, answers.

        Raises Unavailable (ENGINE_UNAVAILABLE), NotFound (MODEL_NOT_FOUND), Unsupported.
        """
        try:
            return await self._check(self._settings, self._config.model)
        except Unavailable as error:
            first = error
        for name in self._engines.fallback:
            settings = self._engines[name]
            if settings.costs_money or name in (LEXICAL, self._settings.name):
                continue
            try:
                await self._check(settings, "")
            except MistudioError:
                continue
            self._log(f"{first.message} Engine {name!r} stands in.")
            self._problems[self._settings.name, ""] = first.message
            return None
        if not self._config.allow_lexical_fallback:
            raise first
        self._log(f"{first.message} The lexical engine stands in.")
        self._problems[self._settings.name, ""] = first.message
        return None

    async def _check(self, settings: EngineSettings, model: str) -> None:
        """Whether an engine answers; with a model, whether it has it and can take a question."""
        if settings.kind == LEXICAL:
            return
        model = model or settings.model
        try:
            if not model:
                self._models[settings.name] = await self._pool.models(settings.name)
                return
            engine = self._pool.get(settings.name, model)
            await ChatExplainer(engine, self._config).check()
            if settings.kind == OLLAMA:  # it would load at the first question, whose deadline may be shorter
                async for _ in engine.load(model):
                    pass
        except MistudioError as error:
            self._problems[settings.name, model] = error.message
            raise
        self._problems[settings.name, model] = ""

    async def _usable(self, source: Source) -> bool:
        """Whether a source can be asked; found out once."""
        key = (source.settings.name, source.model)
        async with self._checking:
            if key not in self._problems:
                try:
                    await self._check(source.settings, source.model)
                except MistudioError as error:
                    self._log(f"{error.message} It is left out.")
        return not self._problems.get(key) and not self._problems.get((key[0], ""))

    def worst_usd(self, evidence: FeatureEvidence) -> float:
        """US dollars that the first question about a feature may cost; 0 where nothing can be asked."""
        source = next(self._sources(evidence))
        explainer = ChatExplainer(self._pool.get(source.settings.name, source.model), self._config)
        prompt = explainer.prompt(evidence, strategy=self._config.strategy, seed=self._config.seed)
        if isinstance(prompt, Failure):
            return 0.0
        return worst_cost(source.settings, explainer.request(prompt, self._config.seed)) / NANO

    async def feature(self, evidence: FeatureEvidence, judge: Judge) -> Explanation:
        """The best explanation of a feature, or the failure that counts; only a cancel is raised."""
        best = await self._attempt(evidence, judge, self._sources(evidence), self._config.strategy)
        tried, attempts, cost = [self._config.strategy], 1, best.cost_usd
        while self._too_low(best):
            again = quality.next_attempt(best, tried)
            if again is None:
                break
            tried.append(again)
            found = await self._attempt(evidence, judge, self._sources(evidence), again)
            best, attempts, cost = _better(best, found), attempts + 1, cost + found.cost_usd
        if self._too_low(best):
            other = [s for s in self._sources(evidence) if (s.settings.name, s.model) != (best.engine, best.model)][:1]
            if other and best.engine != LEXICAL:
                found = await self._attempt(evidence, judge, iter(other), best.strategy or self._config.strategy)
                best, attempts, cost = _better(best, found), attempts + 1, cost + found.cost_usd
        return replace(best, attempts=attempts, cost_usd=round(cost, 9), flags=self._flags(best, evidence))

    def _too_low(self, found: Explanation) -> bool:
        return not found.failure and found.engine != LEXICAL and found.explanation_quality < self._config.min_quality

    def _flags(self, found: Explanation, evidence: FeatureEvidence) -> tuple[str, ...]:
        flags = list(found.flags)
        if not found.failure and found.explanation_quality < self._config.min_quality:
            flags.append(
                f"Quality {found.explanation_quality:.2f} is below the {self._config.min_quality:g} asked for."
            )
        if evidence.quality_level == _POOR:
            flags.append(f"The feature itself is not coherent ({evidence.coherence:.2f}).")
        return tuple(flags)

    async def _attempt(
        self, evidence: FeatureEvidence, judge: Judge, sources: Iterator[Source], strategy: str
    ) -> Explanation:
        """Asks one source after the other until one explains; what it says is judged."""
        first: Failure | None = None
        asked, cost = Source(settings=self._settings, model=self._config.model or self._settings.model), 0.0
        for source in sources:
            explainer = await self._explainer(source, first is not None)
            if explainer is None:
                continue
            asked = source if first is None else asked
            outcome = await explainer.explain(evidence, strategy=strategy, seed=self._config.seed)
            self._heard(source, outcome)
            cost += outcome.cost_usd
            if isinstance(outcome, Draft):
                return await self._judged(replace(outcome, cost_usd=cost), evidence, judge)
            first = first or outcome
        if self._config.allow_lexical_fallback or self._settings.kind == LEXICAL:
            draft = await self._lexical.explain(evidence, strategy=strategy, seed=self._config.seed)
            return await self._judged(replace(draft, cost_usd=cost), evidence, judge)
        if first is None:
            said = (m for (name, _), m in self._problems.items() if name == self._settings.name and m)
            why = next(said, "No engine may be asked.")
            first = Failure(kind="unreachable", message=why)
        failed = quality.assess(
            first, evidence, self._idf, engine=asked.settings.name, model=asked.model, rules=self._safety
        )
        return replace(failed, cost_usd=cost)

    async def _judged(self, draft: Draft, evidence: FeatureEvidence, judge: Judge) -> Explanation:
        accuracy = await judge.accuracy(draft, evidence, self._idf, seed=self._config.seed)
        draft = replace(draft, cost_usd=draft.cost_usd + accuracy.cost_usd)
        return quality.assess(
            draft, evidence, self._idf, accuracy, engine=draft.engine, model=draft.model, rules=self._safety
        )

    async def _explainer(self, source: Source, stands_in: bool) -> Explainer | None:
        """Who asks a source; None where it cannot or must not be asked."""
        name = source.settings.name
        if source.settings.kind == LEXICAL:
            return self._lexical
        paid = source.settings.costs_money and (stands_in or name != self._settings.name)
        if paid and (self._config.budget_usd <= 0 or self._paid_left <= 0):
            return None
        if not await self._usable(source) or (paid and self._paid_left <= 0):
            return None
        if not source.model:  # its models are known only now
            source = Source(settings=source.settings, model=self._model(source.settings, FALLBACK, ""))
            if not await self._usable(source):
                return None
        self._paid_left -= paid
        engine = self._pool.get(name, source.model)
        return ChatExplainer(engine, self._config, few_shot=self._few_shot, pair_of=self._pair_of)

    def _heard(self, source: Source, outcome: Draft | Failure) -> None:
        """An engine that did not come back within a whole deadline is no longer waited for, until it answers."""
        if source.settings.kind == LEXICAL or (isinstance(outcome, Draft) and outcome.cached):
            return
        gone = isinstance(outcome, Failure) and outcome.kind in _GONE
        guards = self._pool.guards(source.settings.name)
        if gone and guards.patient:
            self._log(f"{outcome.message if isinstance(outcome, Failure) else ''} It is not waited for any more.")
        if isinstance(outcome, Draft) or gone:
            guards.patient = not gone

    def _sources(self, evidence: FeatureEvidence) -> Iterator[Source]:
        """Whom to ask, best first: the routed model, the fallback model beside it, the engines that stand in."""
        seen: set[tuple[str, str]] = set()
        for source in self._all_sources(evidence):
            if (source.settings.name, source.model) not in seen:
                seen.add((source.settings.name, source.model))
                yield source

    def _all_sources(self, evidence: FeatureEvidence) -> Iterator[Source]:
        routing = self._engines.routing
        role = routing.role(evidence.category, evidence.complexity)
        if self._config.model or self._settings.model or self._settings.kind == LEXICAL:
            yield Source(settings=self._settings, model=self._config.model or self._settings.model)
        else:
            for each in (role, FALLBACK):
                target = routing.target(each)
                settings = self._settings
                if target.engine and self._settings.is_default:
                    settings = self._engines[target.engine]
                yield Source(settings=settings, model=self._model(settings, each, target.model))
        for name in self._engines.fallback:
            yield Source(settings=self._engines[name], model=self._model(self._engines[name], FALLBACK, ""))

    def _model(self, settings: EngineSettings, role: str, wanted: str) -> str:
        if settings.model:
            return settings.model
        there: Sequence[str] = self._models.get(settings.name, ())
        return self._engines.routing.model(role, there) or wanted


def _better(one: Explanation, other: Explanation) -> Explanation:
    """The better of two: an explanation before a failure, then by quality."""
    if one.failure or other.failure:
        return one if other.failure else other
    return other if other.explanation_quality > one.explanation_quality else one
