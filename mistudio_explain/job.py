"""Explain: says in plain language what features respond to, and measures how well.

`run` is the one domain entry: reads the `features` artifact, writes `explanations` and `report`.
Owns the order of work, concurrency, fallback and the summary; engines and measures stand beside.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mistudio_core import clock
from mistudio_core.errors import Unavailable
from mistudio_core.jobs.context import JobContext
from mistudio_explain.config import METRICS_VERSION, ExplainConfig, ExplainResult, Explanation, SummaryInsights
from mistudio_explain.engines.base import Draft, Engine, Failure
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.lexical import LexicalEngine
from mistudio_explain.engines.settings import EngineSettings, choose_engine, load_engines
from mistudio_explain.evidence import FeatureEvidence, FindEvidence
from mistudio_explain.judge import METHOD
from mistudio_explain.prompting import PROMPT_VERSION
from mistudio_explain.quality import assess
from mistudio_explain.report import render_report
from mistudio_explain.safety import load_safety_rules

EXPLANATIONS_FILE = "feature_explanations.json"
"""File of the `explanations` artifact."""
REPORT_FILE = "explanation_report.html"
"""File of the `report` artifact."""
_POLL_SECONDS = 0.25
_HIGH_QUALITY = 0.8


def run(config: ExplainConfig, ctx: JobContext, engines: Mapping[str, EngineSettings] | None = None) -> ExplainResult:
    """Explains features. Input: `features`. Writes artifacts `explanations` and `report`.

    `engines` is what the administrator configured (`load_engines`); only lexical by default.
    Raises NotFound (ENGINE_NOT_FOUND, FEATURE_NOT_FOUND), Unavailable (ENGINE_UNAVAILABLE) where the
    engine does not answer and lexical may not stand in, Unsupported, Corrupt, Cancelled.
    """
    began = clock.monotonic()
    settings = choose_engine(engines or load_engines(None), config.engine, config.model)
    find = FindEvidence(ctx.input("features"))
    chosen = find.choose(
        feature_ids=config.feature_ids, min_coherence=config.min_coherence, max_features=config.max_features
    )
    if not chosen:
        ctx.log(f"No feature has a coherence of {config.min_coherence:g}: nothing is explained.", level="warning")
    outcomes = asyncio.run(_Run(config, ctx, settings, chosen).outcomes())
    explanations = []
    for evidence, outcome in zip(chosen, outcomes, strict=True):
        ctx.check_cancelled()
        model = config.model or settings.model
        explanations.append(assess(outcome, evidence, find.idf, engine=settings.name, model=model, seed=config.seed))
    explanations.sort(key=lambda e: (bool(e.failure), -e.explanation_quality, e.feature_id))
    result = ExplainResult(
        source_find_job=config.find_job_id or str(find.metadata.get("job_id", "")),
        total_features_processed=len(chosen),
        processing_time_seconds=clock.monotonic() - began,
        summary_insights=_insights(explanations),
        engine=_engines(settings.name, explanations),
    )
    _write(ctx, result, explanations, {e.feature_id: e for e in chosen}, _technical(config, ctx, find, settings))
    return result


class _Run:
    """One pass over the chosen features."""

    def __init__(
        self, config: ExplainConfig, ctx: JobContext, settings: EngineSettings, chosen: Sequence[FeatureEvidence]
    ) -> None:
        self._config, self._ctx, self._settings, self._chosen = config, ctx, settings, chosen
        self._began = clock.monotonic()
        self._done = 0

    async def outcomes(self) -> list[Draft | Failure]:
        """One outcome a feature, in order. Raises Unavailable, Cancelled."""
        engine: Engine = LexicalEngine()
        try:
            engine = create_engine(self._settings, model=self._config.model)
            await self._guarded(engine.check())
        except Unavailable as error:
            await engine.close()
            engine = self._fallback(error)
        try:
            return await self._all(engine)
        finally:
            await engine.close()

    def _fallback(self, error: Unavailable) -> Engine:
        """The lexical engine where the request allows it; raises `error` where not."""
        if not self._config.allow_lexical_fallback:
            raise error
        self._ctx.log(f"{error.message} The lexical engine stands in.", level="warning")
        return LexicalEngine()

    async def _all(self, engine: Engine) -> list[Draft | Failure]:
        slots = asyncio.Semaphore(self._config.concurrency)

        async def one(evidence: FeatureEvidence) -> Draft | Failure:
            async with slots:
                outcome = await self._explain(engine, evidence)
                self._done += 1
                if self._done % 50 == 0:
                    # The lexical engine never waits: let the guard look for a cancel.
                    await asyncio.sleep(0)
                return outcome

        try:
            async with asyncio.TaskGroup() as group:
                guard = group.create_task(self._guard())
                tasks = [group.create_task(one(e)) for e in self._chosen]
                await asyncio.gather(*tasks)
                guard.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [t.result() for t in tasks]

    async def _explain(self, engine: Engine, evidence: FeatureEvidence) -> Draft | Failure:
        """One feature; an engine that is gone altogether ends the run or is replaced for this feature."""
        outcome = await engine.explain(evidence, seed=self._config.seed)
        if isinstance(outcome, Failure) and outcome.kind == "unreachable":
            try:
                await engine.check()
            except Unavailable as error:
                return await self._fallback(error).explain(evidence, seed=self._config.seed)
        return outcome

    async def _guarded(self, work: Any) -> None:
        """Awaits `work`, looking for a cancel meanwhile."""
        task = asyncio.ensure_future(work)
        while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
            try:
                self._ctx.check_cancelled()
            except BaseException:
                task.cancel()
                raise
        await task

    async def _guard(self) -> None:
        """Reports progress and raises Cancelled, four times a second."""
        total = len(self._chosen)
        while True:
            self._ctx.check_cancelled()
            spent = clock.monotonic() - self._began
            self._ctx.progress(
                "explain",
                fraction=0.9 * self._done / max(1, total),
                current=float(self._done),
                total=float(total),
                unit="features",
                remaining_s=spent / self._done * (total - self._done) if self._done else None,
            )
            await asyncio.sleep(_POLL_SECONDS)


def _engines(asked: str, explanations: Sequence[Explanation]) -> str:
    """Who wrote the explanations: the engine asked for, or who stood in for it and for how many."""
    written = Counter(e.engine for e in explanations if not e.failure)
    if not set(written) - {asked}:
        return asked
    by = ", ".join(f"{name} ({count})" for name, count in written.most_common())
    return f"{by}; {asked} did not answer" if asked not in written else f"{by}; {asked} did not always answer"


def _insights(explanations: Sequence[Explanation]) -> SummaryInsights:
    """Counts and averages; failures enter no average."""
    done = [e for e in explanations if not e.failure]
    flagged = ("concerning", "requires_review")
    return SummaryInsights(
        high_quality_explanations=sum(e.explanation_quality >= _HIGH_QUALITY for e in done),
        safety_concerns_identified=sum(e.safety_assessment in flagged for e in explanations),
        business_critical_features=sum(e.business_relevance == "high" for e in done),
        technical_pattern_count=sum(e.pattern_category == "technical" for e in explanations),
        behavioral_pattern_count=sum(e.pattern_category == "behavioral" for e in explanations),
        explanation_quality_average=round(sum(e.explanation_quality for e in done) / max(1, len(done)), 4),
        accuracy_average=round(sum(e.quality_parts.accuracy for e in done) / max(1, len(done)), 4),
        failed=len(explanations) - len(done),
    )


def _technical(config: ExplainConfig, ctx: JobContext, find: FindEvidence, settings: EngineSettings) -> dict[str, Any]:
    """Lineage and versions."""
    metadata = find.metadata
    lineage = metadata.get("lineage", {})
    return {
        "model": metadata.get("model_name", ""),
        "explain_job": ctx.job_id,
        "find_job": metadata.get("job_id", ""),
        "training_job": metadata.get("source_training_job", ""),
        **{key: lineage.get(key, "") for key in ("layer", "hook_name", "sae_sha256", "corpus_sha256")},
        "features_in_all": find.total,
        "engine": settings.name,
        "engine_model": config.model or settings.model,
        "prompt": "" if settings.kind == "lexical" else PROMPT_VERSION,
        "accuracy_method": METHOD,
        "safety_rules": load_safety_rules()[0],
        "metrics": METRICS_VERSION,
        "seed": config.seed,
    }


def _write(
    ctx: JobContext,
    result: ExplainResult,
    explanations: Sequence[Explanation],
    evidence: Mapping[int, FeatureEvidence],
    technical: Mapping[str, Any],
) -> None:
    """Both artifacts, the explanations first."""
    ctx.progress("write", fraction=0.92)
    body = {
        "job_metadata": {
            "explain_job_id": ctx.job_id,
            "source_find_job": result.source_find_job,
            "processing_time": _duration(result.processing_time_seconds),
            "total_features_processed": result.total_features_processed,
            "explanation_quality_average": result.summary_insights.explanation_quality_average,
            "engine": result.engine,
            "lineage": technical,
            "versions": {"metrics": METRICS_VERSION, "accuracy": METHOD, "safety": technical["safety_rules"]},
        },
        "explanations": [asdict(e) for e in explanations],
        "summary_insights": asdict(result.summary_insights),
    }
    data = json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False).encode()
    page = render_report(result, explanations, evidence, technical).encode("utf-8", "replace")
    for name, file, content in (("explanations", EXPLANATIONS_FILE, data), ("report", REPORT_FILE, page)):
        ctx.check_cancelled()
        writer = ctx.stage_artifact(name, name)
        try:
            writer.write(file, content)
        except BaseException:
            writer.discard()
            raise
        ctx.commit(writer)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"
