"""Writes what a run came to: the `explanations` artifact and the `report`.

`explanations` holds feature_explanations.json and the query table, `report` the HTML page. Every form
is made from one list of records; the others are made of the table when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mistudio_core import clock
from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_core.jobs.context import JobContext
from mistudio_explain.book import Book, shown_evidence, with_evidence
from mistudio_explain.config import METRICS_VERSION, ExplainResult, Explanation, record_of
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.insights import reasons
from mistudio_explain.reports import FORMS
from mistudio_explain.table import TABLE_FILE, write_table

EXPLANATIONS_FILE = FORMS["json"].filename
"""File of the `explanations` artifact that PRODUCT readers know."""
REPORT_FILE = FORMS["html"].filename
"""File of the `report` artifact."""
_MINUTE = 60


def write(
    ctx: JobContext,
    result: ExplainResult,
    explanations: Sequence[Explanation],
    evidence: Mapping[int, FeatureEvidence],
    technical: Mapping[str, Any],
) -> None:
    """Both artifacts, the explanations first; `explanations` best first, `evidence` by feature.

    Raises Cancelled, DiskFull.
    """
    ctx.progress("write", fraction=0.92)
    book = make_book(ctx.job_id, result, explanations, evidence, technical)

    def tables(folder: Path) -> None:
        (folder / EXPLANATIONS_FILE).write_bytes(FORMS["json"].render(book))
        about = {"job_metadata": book.metadata, "summary_insights": book.summary, "technical": book.technical}
        write_table(folder / TABLE_FILE, about, book.records, list(book.evidence.items()))

    _artifact(ctx, "explanations", tables)
    ctx.progress("write", fraction=0.96)
    _artifact(ctx, "report", lambda folder: _page(folder, book))


def _page(folder: Path, book: Book) -> None:
    (folder / REPORT_FILE).write_bytes(FORMS["html"].render(book))


def _artifact(ctx: JobContext, name: str, fill: Callable[[Path], None]) -> None:
    ctx.check_cancelled()
    writer: ArtifactWriter = ctx.stage_artifact(name, name)
    try:
        with disk_errors(writer.folder, f"{name} artifact"):
            fill(writer.folder)
    except BaseException:
        writer.discard()
        raise
    ctx.commit(writer)


def make_book(
    job_id: str,
    result: ExplainResult,
    explanations: Sequence[Explanation],
    evidence: Mapping[int, FeatureEvidence],
    technical: Mapping[str, Any],
) -> Book:
    """The run as every form shows it; flags say all reasons why a person should look."""
    records = [clean(record_of(e) | {"flags": reasons(e)}) for e in explanations]
    methods = sorted({e.quality_parts.accuracy_method for e in explanations if not e.failure})
    metadata = {
        "explain_job_id": job_id,
        "source_find_job": result.source_find_job,
        "explained_at": clock.now().isoformat(timespec="seconds"),
        "processing_time": _duration(result.processing_time_seconds),
        "total_features_processed": result.total_features_processed,
        "explanation_quality_average": result.summary_insights.explanation_quality_average,
        "engine": result.engine,
        "lineage": {k: v for k, v in technical.items() if not isinstance(v, Mapping)},
        "versions": {
            "metrics": METRICS_VERSION,
            "accuracy": ", ".join(methods),
            "safety": technical.get("safety_rules", ""),
        },
    }
    summary = clean(asdict(result.summary_insights))
    shown = {i: clean(shown_evidence(evidence[i])) for i in with_evidence(records) if i in evidence}
    return Book(
        metadata=clean(metadata),
        records=records,
        summary={**summary, "reviewed": 0},
        technical=clean(dict(technical)),
        evidence=shown,
    )


def clean(value: Any) -> Any:
    """Lists for tuples, and Unicode that can be encoded."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, float | int | None):
        return value
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    return value


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < _MINUTE else f"{seconds / _MINUTE:.1f} minutes"
