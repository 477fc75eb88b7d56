"""Find: gathers the evidence for every feature of a trained SAE.

`run` is the one domain entry: reads the `codes` artifact, writes the `features` artifact. Owns the
order of work, progress and the summary; the parts stand in the files beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mistudio_core import clock
from mistudio_core.jobs.context import JobContext
from mistudio_find.analysis import Analyst
from mistudio_find.categories import load_rules
from mistudio_find.coherence import TIERS, build_meter
from mistudio_find.config import METRICS_VERSION, FindConfig, FindResult
from mistudio_find.corpus_index import build_index
from mistudio_find.evidence import build_pool
from mistudio_find.outputs import RecordSpool, write_summaries, write_vocabulary
from mistudio_find.render import Renderer, clean
from mistudio_find.topics import build_topics
from mistudio_torch.codes import CodesReader

_REPORT_SECONDS = 0.25
_SUMMARY_KEYS = ("feature_id", "coherence_score", "quality_level", "pattern_category", "category_confidence")
# Shares of the whole job at which its stages begin.
_INDEX, _ANALYSE, _WRITE = 0.0, 0.15, 0.85


def run(config: FindConfig, ctx: JobContext) -> FindResult:
    """Analyses every feature. Inputs: `codes`. Writes one artifact: kind `features`, name `analysis`.

    Raises Corrupt for damaged codes, DiskFull, Cancelled. A dead feature is listed, not an error.
    """
    began = clock.monotonic()
    codes = CodesReader(ctx.input("codes"))
    analyst = _prepare(config, codes, _reporter(ctx, "index", _INDEX, _ANALYSE))
    spool = RecordSpool(ctx.scratch / "features.spool")
    rows = _analyse(analyst, spool, ctx)
    live = [row for row in rows if not row["dead"]]
    # Dead features last, then by coherence, then by id.
    keys = np.array([(row["dead"], -row["coherence_score"]) for row in rows], np.float64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    seconds = clock.monotonic() - began
    writer = ctx.stage_artifact("analysis", "features")
    try:
        metadata = _metadata(config, codes, ctx.job_id, analyst.rules.version, seconds)
        spool.publish(writer, order, metadata, _reporter(ctx, "write", _WRITE, 1.0))
        write_vocabulary(writer, analyst.index)
        write_summaries(writer, live, metadata["versions"])
    except BaseException:
        writer.discard()
        raise
    ctx.commit(writer)
    spool.path.unlink()
    return _result(config, codes, live, clock.monotonic() - began)


def _prepare(config: FindConfig, codes: CodesReader, tick: Callable[[float], None]) -> Analyst:
    """Everything that is made once."""
    index = build_index(codes, lambda share: tick(0.6 * share))
    tick(0.6)
    topics = build_topics(index, seed=config.seed)
    tick(0.8)
    starts = [codes.doc_tokens(d)[0] for d in range(codes.n_documents)]
    meter = build_meter(index, topics, np.array([*starts, codes.n_tokens], np.int64), seed=config.seed)
    pools = [
        build_pool(codes, index, topics, judge=judge, context=config.context_tokens, seed=config.seed)
        for judge in (False, True)
    ]
    rules = load_rules()
    tick(1.0)
    return Analyst(
        codes=codes,
        index=index,
        meter=meter,
        evidence_pool=pools[0],
        judge_pool=pools[1],
        rules=rules,
        rule_flags=rules.flags(index.vocabulary),
        renderer=Renderer(codes, config.context_tokens),
        config=config,
        sae_sha256=clean(str(codes.meta.get("sae_sha256", ""))),
    )


def _analyse(analyst: Analyst, spool: RecordSpool, ctx: JobContext) -> list[dict[str, Any]]:
    """Spools every record; returns the short rows that the summary needs."""
    total = analyst.codes.d_sae
    tick = _reporter(ctx, "analyse", _ANALYSE, _WRITE, total=total)
    rows = []
    try:
        for feature_id in range(total):
            tick(feature_id / total)
            record = analyst.analyse(feature_id)
            spool.add(record)
            rows.append({key: record[key] for key in (*_SUMMARY_KEYS, "dead")})
    finally:
        spool.close()
    return rows


def _reporter(ctx: JobContext, stage: str, low: float, high: float, *, total: int = 0) -> Callable[[float], None]:
    """A cheap tick(share of the stage): checks for a cancel and reports, four times a second."""
    state = {"next": 0.0, "began": clock.monotonic()}

    def tick(share: float) -> None:
        now = clock.monotonic()
        if now < state["next"]:
            return
        state["next"] = now + _REPORT_SECONDS
        ctx.check_cancelled()
        spent = now - state["began"]
        remaining = spent / share * (1 - share) if total and share > 0 else None
        ctx.progress(
            stage,
            fraction=low + (high - low) * share,
            current=share * total,
            total=float(total),
            unit="features" if total else "",
            remaining_s=remaining,
        )

    return tick


def _metadata(config: FindConfig, codes: CodesReader, job_id: str, rules: str, seconds: float) -> dict[str, Any]:
    """`job_metadata` of the published form."""
    lineage = {
        key: clean(str(codes.meta[key]))
        for key in ("layer", "hook_name", "sae_sha256", "corpus_sha256")
        if key in codes.meta
    }
    return {
        "job_id": job_id,
        "source_training_job": config.training_job_id,
        "model_name": clean(str(codes.meta.get("model_name", ""))),
        "total_features": codes.d_sae,
        "processing_time": f"{seconds:.1f} seconds",
        "tokens": codes.n_tokens,
        "documents": codes.n_documents,
        "lineage": lineage,
        "versions": {"metrics": METRICS_VERSION, "categories": rules, "coherence": "coherence/1"},
        "config": {key: getattr(config, key) for key in config.__slots__},
    }


def _result(config: FindConfig, codes: CodesReader, live: list[dict[str, Any]], seconds: float) -> FindResult:
    def counts(key: str, names: tuple[str, ...]) -> Mapping[str, int]:
        found = Counter(row[key] for row in live)
        return {name: found.get(name, 0) for name in (*names, *sorted(set(found) - set(names)))}

    return FindResult(
        source_training_job=config.training_job_id,
        model_name=clean(str(codes.meta.get("model_name", ""))),
        total_features=codes.d_sae,
        live_features=len(live),
        dead_features=codes.d_sae - len(live),
        mean_coherence=float(np.mean([row["coherence_score"] for row in live])) if live else 0.0,
        quality_levels=counts("quality_level", tuple(name for name, _ in TIERS)),
        categories=counts("pattern_category", ("technical", "conversational", "behavioral", "temporal", "general")),
        processing_time_seconds=seconds,
        tokens=codes.n_tokens,
        documents=codes.n_documents,
        sae_sha256=clean(str(codes.meta.get("sae_sha256", ""))),
    )
