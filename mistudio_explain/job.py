"""Explain: says in plain language what features respond to, and measures how well.

`run` is the one domain entry: reads the `features` artifact, writes `explanations` and `report`.
Owns the order of work and the summary; how one feature is explained stands in explaining.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mistudio_core import clock
from mistudio_core.address import is_loopback
from mistudio_core.gpus import read_gpus
from mistudio_core.home import Home
from mistudio_core.jobs.context import JobContext
from mistudio_explain import lineage, outputs
from mistudio_explain.chat_explainer import readable
from mistudio_explain.config import METRICS_VERSION, Costs, ExplainConfig, ExplainResult, Explanation
from mistudio_explain.costs import Energy, Prices, cost_of, load_prices
from mistudio_explain.energy import EnergyMeter
from mistudio_explain.engines.settings import Engines, EngineSettings, choose_engine, load_engines
from mistudio_explain.engines.table import LEXICAL
from mistudio_explain.engines.vllm_settings import VllmSettings
from mistudio_explain.evidence import FeatureEvidence, FindEvidence, check_strategy
from mistudio_explain.explaining import Explaining
from mistudio_explain.few_shot import load_few_shot
from mistudio_explain.insights import summarise
from mistudio_explain.judging import Judge, create_judge, judge_name
from mistudio_explain.judging.choice import EMBEDDING
from mistudio_explain.judging.model import usable
from mistudio_explain.outputs import EXPLANATIONS_FILE, REPORT_FILE
from mistudio_explain.policy.pool import EnginePool, check_budget
from mistudio_explain.policy.window import MOST_BATCH, Batches
from mistudio_explain.safety import business_relevance, safety_rules
from mistudio_explain.spool import ExplanationSpool

__all__ = ["EXPLANATIONS_FILE", "REPORT_FILE", "run"]
_POLL_SECONDS = 0.25
_TIERS = ("excellent", "good", "fair", "poor")
_RELEVANCE = ("high", "medium", "low")
_FEW = 10


def run(
    config: ExplainConfig,
    ctx: JobContext,
    engines: Mapping[str, EngineSettings] | None = None,
    home: Home | None = None,
) -> ExplainResult:
    """Explains features. Input: `features`. Writes artifacts `explanations` and `report`.

    `engines` is what the administrator configured (`load_engines`); only lexical by default. `home` has the
    cache, few-shot sets and rules; without one there are none but the built-in ones. A killed run goes on
    after the last explanation that it finished. Raises NotFound (ENGINE_NOT_FOUND, FEATURE_NOT_FOUND,
    MODEL_NOT_FOUND), Unavailable (ENGINE_UNAVAILABLE) where no engine answers and lexical may not stand in,
    InvalidInput where an engine costs money and nothing may be spent, Unsupported, Corrupt, DiskFull, Cancelled.
    """
    began = clock.monotonic()
    known = engines if isinstance(engines, Engines) else Engines.of(*(engines or load_engines(None)).values())
    settings = choose_engine(known, config.engine, config.model)
    check_budget(settings, config.budget_usd)
    find = FindEvidence(ctx.input("features"))
    chosen = _prioritised(find, config, ctx)
    check_strategy(config.strategy, chosen)
    prices = load_prices(home.rules if home else None)
    meter = _meter(settings, prices)
    work = _Run(config, ctx, known, settings, find, chosen, home)
    done = asyncio.run(work.explanations())
    energy = meter.read() if meter else Energy()
    explanations = sorted(done, key=lambda e: (bool(e.failure), -e.explanation_quality, e.feature_id))
    result = ExplainResult(
        source_find_job=config.find_job_id or str(find.metadata.get("job_id", "")),
        total_features_processed=len(chosen),
        processing_time_seconds=clock.monotonic() - began,
        summary_insights=summarise(explanations, _costs(explanations, prices, energy, work.spent_usd)),
        engine=_engines(settings.name, explanations),
    )
    more = {
        "prompts": ", ".join(sorted({e.prompt_version for e in explanations if e.prompt_version})),
        "judge": work.judge_method,
        "safety_rules": work.safety_version,
        "seed": config.seed,
    }
    technical = lineage.technical(config, ctx.job_id, find.metadata, settings, features_in_all=find.total, more=more)
    outputs.write(ctx, result, explanations, {e.feature_id: e for e in chosen}, technical)
    return result


def _prioritised(find: FindEvidence, config: ExplainConfig, ctx: JobContext) -> list[FeatureEvidence]:
    """The features to explain, the most worthwhile first: by tier, business relevance, coherence."""
    chosen = find.choose(
        feature_ids=config.feature_ids, min_coherence=config.min_coherence, max_features=config.max_features
    )
    if not config.feature_ids and len(chosen) < min(config.max_features, find.total):
        _say_what_there_is(find, config, len(chosen), ctx)

    def worth(evidence: FeatureEvidence) -> tuple[int, int, float, int]:
        tier = _TIERS.index(evidence.quality_level) if evidence.quality_level in _TIERS else len(_TIERS)
        return tier, _RELEVANCE.index(business_relevance(evidence)), -evidence.coherence, evidence.feature_id

    return sorted(chosen, key=worth)


def _say_what_there_is(find: FindEvidence, config: ExplainConfig, chosen: int, ctx: JobContext) -> None:
    """One line where fewer features reach the coherence than were asked for: how many there are, what to pass."""
    found = f"{chosen} of {find.total} features reach a coherence of {config.min_coherence:g}"
    live = find.reaching(0.0)
    wanted = min(config.max_features, live)
    if wanted <= chosen:
        ctx.log(f"{found}; the other {find.total - chosen} never fire.")
        return
    at = max(0.0, find.coherence_at(wanted - 1))
    steps = ", ".join(f"{find.reaching(c)} reach {c:g}" for c in (0.3, 0.2, 0.1) if c < config.min_coherence)
    ctx.log(
        f"{found}{'; ' + steps if steps else ''}. Pass min_coherence {int(at * 100) / 100:g} for the best {wanted}.",
        level="warning" if chosen < _FEW else "info",
    )


class _Run:
    """One pass over the chosen features."""

    def __init__(
        self,
        config: ExplainConfig,
        ctx: JobContext,
        engines: Engines,
        settings: EngineSettings,
        find: FindEvidence,
        chosen: Sequence[FeatureEvidence],
        home: Home | None,
    ) -> None:
        self._config, self._ctx, self._engines, self._settings = config, ctx, engines, settings
        self._find, self._chosen, self._home = find, chosen, home
        self._began = clock.monotonic()
        self._under_way = 0
        self.spent_usd = 0.0
        self.judge_method = ""
        self._safety = safety_rules(home.rules if home else None)
        self.safety_version = self._safety.version

    async def explanations(self) -> list[Explanation]:
        """One a feature, in order. Raises what `run` does."""
        home = self._home
        pool = EnginePool(
            self._engines,
            self._config,
            kept=self._ctx.kept,
            cache_folder=home.root / "cache" if home else None,
            readable=lambda answer: readable(answer) or usable(answer),
        )
        spool = ExplanationSpool(self._ctx.kept / f"explanations.{METRICS_VERSION}.spool")
        judge: Judge | None = None
        try:
            judge = self._judge(pool)
            explaining = Explaining(
                self._config,
                self._engines,
                self._settings,
                pool,
                idf=self._find.idf,
                total=len(self._chosen),
                few_shot=load_few_shot(self._config.few_shot, (home.root if home else self._ctx.scratch) / "few_shot"),
                pair_of=self._find.neighbour_of,
                safety=self._safety,
                log=lambda line: self._ctx.log(line, level="warning"),
            )
            if len(spool.done) < len(self._chosen):
                await self._guarded(explaining.check())
                await self._guarded(judge.check())
                self._estimate(explaining)
            await self._all(explaining, judge, spool, pool)
        finally:
            spool.close()
            if judge:
                await judge.close()
            await pool.close()
            self.spent_usd = pool.budget.spent_usd
        return [spool.done[e.feature_id] for e in self._chosen]

    def _estimate(self, explaining: Explaining) -> None:
        """Says what a run on a provider may cost, from the first features."""
        some = self._chosen[:MOST_BATCH]
        if self._settings.costs_money and some:
            worst = sum(map(explaining.worst_usd, some)) / len(some) * len(self._chosen)
            self._ctx.log(
                f"Explaining {len(self._chosen)} features with {self._settings.name} costs at most about "
                f"{worst:.2f} US dollars where every first answer is good; the budget is {self._config.budget_usd:g}."
            )

    def _judge(self, pool: EnginePool) -> Judge:
        """The judge of the request, else the administrator's, else words alone."""
        name = judge_name(self._config.judge_engine, self._engines.judge)
        engine = None
        if name not in (LEXICAL, EMBEDDING):
            settings = choose_engine(self._engines, name, self._config.judge_model)
            check_budget(settings, self._config.budget_usd, field="judge_engine")
            engine = pool.get(name, self._config.judge_model)
        judge = create_judge(
            name,
            engine=engine,
            model=self._config.judge_model or str(self._find.metadata.get("model_name", "")),
            model_root=self._home.models if self._home else None,
        )
        self.judge_method = judge.method
        return judge

    async def _all(self, explaining: Explaining, judge: Judge, spool: ExplanationSpool, pool: EnginePool) -> None:
        """Takes features up in batches, so that the engine always has as many as it may."""
        todo = deque(e for e in self._chosen if e.feature_id not in spool.done)
        batches, room = Batches(), asyncio.Event()

        async def one(evidence: FeatureEvidence) -> None:
            try:
                explanation = await explaining.feature(evidence, judge)
                spool.add(explanation)
            finally:
                self._under_way -= 1
                room.set()

        async def every() -> None:
            async with asyncio.TaskGroup() as group:
                while todo:
                    size = batches.next(pool.take_trouble())
                    for _ in range(min(size, len(todo))):
                        self._under_way += 1
                        group.create_task(one(todo.popleft()))
                    while self._under_way > self._config.concurrency:
                        room.clear()
                        await room.wait()

        try:
            await self._guarded(every(), spool)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _guarded(self, work: Coroutine[Any, Any, None], spool: ExplanationSpool | None = None) -> None:
        """Awaits `work`, reports, and raises Cancelled soon after a cancel was asked for."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
                self._ctx.check_cancelled()
                if spool:
                    self._report(len(spool.done))
        except BaseException:
            task.cancel()
            await asyncio.wait({task})
            raise
        await task

    def _report(self, done: int) -> None:
        total = len(self._chosen)
        spent = clock.monotonic() - self._began
        self._ctx.progress(
            "explain",
            fraction=0.9 * done / max(1, total),
            current=float(done),
            total=float(total),
            unit="features",
            remaining_s=spent / done * (total - done) if done else None,
        )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, whatever groups it stands in."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _costs(explanations: Sequence[Explanation], prices: Prices, energy: Energy, spent_usd: float) -> Costs:
    """The cost fields; what was spent counts calls that came to nothing too."""
    found = cost_of(explanations, prices, energy)
    return replace(found, spent_usd=round(max(found.spent_usd, spent_usd), 6))


def _meter(settings: EngineSettings, prices: Prices) -> EnergyMeter | None:
    """Measures what the run's engine takes: None for a provider, this machine's GPUs only where it runs on them."""
    if settings.costs_money:
        return None
    watts = prices.rated_watts
    managed = isinstance(settings, VllmSettings) and settings.managed
    if settings.kind == LEXICAL or (
        isinstance(settings, VllmSettings) and all(d.startswith("cpu:") for d in settings.devices)
    ):
        return EnergyMeter(watts, on_gpu=False)
    if managed or is_loopback(urlsplit(settings.url).hostname or ""):
        return EnergyMeter(watts, on_gpu=bool(read_gpus()))
    return EnergyMeter({**watts, "cpu": watts["gpu"]}, on_gpu=False)  # a GPU elsewhere: its rated power


def _engines(asked: str, explanations: Sequence[Explanation]) -> str:
    """Who wrote the explanations: the engine asked for, or who stood in for it and for how many."""
    written = Counter(e.engine for e in explanations if not e.failure)
    if not set(written) - {asked}:
        return asked
    by = ", ".join(f"{name} ({count})" for name, count in written.most_common())
    return f"{by}; {asked} did not answer" if asked not in written else f"{by}; {asked} did not always answer"
