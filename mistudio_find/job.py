"""Find: gathers the evidence for every feature of a trained SAE.

`run` is the one domain entry: reads the `codes` artifact, writes the `features` artifact. Owns the
order of work, progress and the summary; the parts stand in the files beside it.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from mistudio_core import clock
from mistudio_core.jobs.context import JobContext
from mistudio_find import imported, redact
from mistudio_find.analysis import Analyst
from mistudio_find.associations import carried_by
from mistudio_find.coherence import COHERENCE_VERSION, TIERS, build_meter
from mistudio_find.config import METRICS_VERSION, FindConfig, FindResult
from mistudio_find.corpus_index import Array, build_index
from mistudio_find.evidence import build_pools, survey
from mistudio_find.history import lineage_of
from mistudio_find.judgement import build_judge
from mistudio_find.outputs import RecordSpool, write_summaries, write_vocabulary
from mistudio_find.phrases import find_phrases
from mistudio_find.products import one_thread_each
from mistudio_find.relations import Relations, relations
from mistudio_find.render import Renderer, clean
from mistudio_find.rulebook import load_rules
from mistudio_find.topics import build_topics
from mistudio_torch.codes import CodesReader
from mistudio_torch.compiled import threads

_REPORT_SECONDS = 0.25
_RELEASE_EVERY = 256
# Shares of the whole job at which its stages begin.
_INDEX, _SURVEY, _RELATE, _ANALYSE, _WRITE = 0.0, 0.15, 0.3, 0.4, 0.85


def run(config: FindConfig, ctx: JobContext) -> FindResult:
    """Analyses every feature. Inputs: `codes`. Writes one artifact: kind `features`, name `analysis`.

    A killed run goes on after the last record that it wrote. Raises Corrupt for damaged codes, DiskFull,
    Cancelled. A dead feature is listed, not an error.
    """
    began = clock.monotonic()
    ctx = imported.prepared(config, ctx)
    codes = redact.opened(ctx.input("codes"), config)
    analyst = _prepare(config, codes, ctx)
    spool = RecordSpool(ctx.kept / f"features.{METRICS_VERSION}.spool")
    with _settled():
        try:
            _analyse(analyst, spool, ctx)
        finally:
            spool.close()
        return _published(config, ctx, analyst, spool, began)


@contextmanager
def _settled() -> Iterator[None]:
    """What is there already is left out of collections of garbage, which records bring about again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _published(config: FindConfig, ctx: JobContext, analyst: Analyst, spool: RecordSpool, began: float) -> FindResult:
    """Commits the artifact."""
    codes = analyst.codes
    live = [row for row in spool.rows if not row["dead"]]
    # Dead features last, then by coherence, then by id.
    keys = np.array([(row["dead"], -row["coherence_score"]) for row in spool.rows], np.float64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    seconds = clock.monotonic() - began
    writer = ctx.stage_artifact("analysis", "features")
    try:
        metadata = _metadata(config, codes, ctx.job_id, analyst.judge.versions, seconds)
        spool.publish(writer, order, metadata, _reporter(ctx, "write", _WRITE, 1.0))
        if config.evidence_text != "none":
            write_vocabulary(writer, analyst.index)
        write_summaries(writer, live, metadata["versions"])
    except BaseException:
        writer.discard()
        raise
    ctx.commit(writer)
    spool.remove()
    return _result(config, codes, live, clock.monotonic() - began, metadata["versions"])


def _prepare(config: FindConfig, codes: CodesReader, ctx: JobContext) -> Analyst:
    """Everything that is made once: the corpus as numbers, its topics, the survey of all activations."""
    parts = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = threads(min(parts, int(os.environ.get("OMP_NUM_THREADS") or parts)))
    tick = _reporter(ctx, "index", _INDEX, _SURVEY)
    index = build_index(codes, ctx.scratch / "index", lambda share: tick(0.6 * share))
    tick(0.6)
    with one_thread_each():
        topics = build_topics(index, seed=config.seed)
        tick(0.8)
        meter = build_meter(index, topics, codes.doc_token_offsets, seed=config.seed)
        pools = build_pools(codes, index, topics, context=config.context_tokens, seed=config.seed)
        judge = build_judge(load_rules(config.rules, config.rules_root), index)
        tick(1.0)
        tick = _reporter(ctx, "survey", _SURVEY, _RELATE, total=codes.d_sae)
        found = survey(codes, index, topics, pools, config, parts=parts, tick=tick)
    related = _related(config, codes, ctx, parts)
    return Analyst(
        codes=codes,
        index=index,
        survey=found,
        phrases=find_phrases(index, found, parts),
        q_values=found.associations.q_values(),
        carried=carried_by(codes).values(),
        meter=meter,
        pools=pools,
        judge=judge,
        importance=_shares_of_largest(found.moments[:, 0], related.decoder_norms),
        relations=related,
        renderer=Renderer(codes, config.context_tokens),
        config=config,
        sae_sha256=clean(str(codes.meta.get("sae_sha256", ""))),
    )


def _related(config: FindConfig, codes: CodesReader, ctx: JobContext, parts: int) -> Relations:
    """How the features relate by their weights and by what they fire on."""
    return relations(
        codes,
        lambda: ctx.input("sae"),
        model_root=config.model_root,
        seed=config.seed,
        parts=parts,
        tick=_reporter(ctx, "relate", _RELATE, _ANALYSE),
        log=lambda line: ctx.log(line, level="warning"),
    )


def _shares_of_largest(sums: Array, norms: Array | None) -> Array:
    """What features write beside the largest, 0 to 1: sums of activations, times the decoder's norms where known."""
    written = sums if norms is None else sums * norms
    return written / max(1e-30, float(written.max(initial=0.0)))


def _analyse(analyst: Analyst, spool: RecordSpool, ctx: JobContext) -> None:
    """Spools every record that is not there yet."""
    total = analyst.codes.d_sae
    tick = _reporter(ctx, "analyse", _ANALYSE, _WRITE, total=total)
    for feature, record in enumerate(analyst.records(len(spool.rows)), len(spool.rows)):
        tick(feature / total)
        spool.add(redact.kept(record, analyst.config.evidence_text))
        if feature % _RELEASE_EVERY == 0:
            analyst.codes.release()
            analyst.index.release()


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


def _metadata(
    config: FindConfig, codes: CodesReader, job_id: str, rules: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """`job_metadata` of the published form."""
    lineage: dict[str, str] = {
        key: clean(str(codes.meta[key]))
        for key in ("layer", "hook_name", "sae_sha256", "corpus_sha256", "model_revision")
        if key in codes.meta
    }
    lineage |= {f"origin_{key}": clean(str(value)) for key, value in codes.meta.get("origin", {}).items()}
    redaction = {"redaction": codes.meta["redaction"]} if "redaction" in codes.meta else {}
    return {
        "job_id": job_id,
        "source_training_job": config.training_job_id,
        "model_name": clean(str(codes.meta.get("model_name", ""))),
        "total_features": codes.d_sae,
        "processing_time": f"{seconds:.1f} seconds",
        "tokens": codes.n_tokens,
        "documents": codes.n_documents,
        "lineage": lineage,
        "versions": {"metrics": METRICS_VERSION, "coherence": COHERENCE_VERSION, **rules, **redaction},
        "config": config.described(),
    }


def _result(
    config: FindConfig, codes: CodesReader, live: list[dict[str, Any]], seconds: float, versions: Mapping[str, str]
) -> FindResult:
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
        sae_origin=codes.meta.get("origin"),
        sae_sha256=clean(str(codes.meta.get("sae_sha256", ""))),
        lineage=lineage_of(codes.meta) | {"training_job_id": config.training_job_id},
        versions=versions,
    )
