"""Several engines on the same features: one Explain run each, then their figures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_core.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_rpc.client import Client

_COLUMNS = (
    "engine",
    "model",
    "features",
    "failed",
    "quality",
    "accuracy",
    "s each",
    "tokens in",
    "out",
    "cost $",
    "change",
)


def compare_engines(client: Client, given: Mapping[str, Any], *, home: Path | None, as_json: bool) -> None:
    """Runs and shows a comparison; `given` are the command's parameters. Raises InvalidInput, Failed."""
    from mistudio_cli.flow import to_the_end
    from mistudio_cli.output import emit, message_json, say, show, table

    entries = list(given["engine"])
    if len(set(entries)) < 2 or len(set(entries)) != len(entries):
        raise InvalidInput.field("engine", ", ".join(entries), "two or more different engines")
    jobs = [(entry, _start(client, entry, given)) for entry in entries]
    to_the_end(client, jobs, home=home, as_json=as_json)
    results = [_result(client, job_id) for _, job_id in jobs]
    changes = [_change(client, jobs[0][1], job_id) for _, job_id in jobs[1:]]
    if as_json:
        compared = [None, *(message_json(change) for change in changes)]
        each = zip(jobs, results, compared, strict=True)
        emit({"engines": [{"engine": e, "result": message_json(r), "compared": c} for (e, _), r, c in each]})
        return
    rows = [row_of(entry, r, c) for (entry, _), r, c in zip(jobs, results, [None, *changes], strict=True)]
    show(table("", _COLUMNS, rows, right=_COLUMNS[2:]))
    say(
        f"change: mean difference of quality to {entries[0]}, over features that both explained, with its 95 % interval"
    )


def _start(client: Client, entry: str, given: Mapping[str, Any]) -> str:
    """The job of one engine, `ENGINE` or `ENGINE=MODEL`. Results are never taken from earlier runs: they are timed."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.requests import fill, new_request_id

    engine, _, model = entry.partition("=")
    values = {**given, "engine": engine, "model": model or None, "use_cache": False, "request_id": new_request_id()}
    request = fill(explain_service_pb2.StartExplainRequest(), values)
    return str(client.explain.StartExplain(request).job_id)


def _result(client: Client, job_id: str) -> explain_service_pb2.GetExplainResultResponse:
    from mistudio.explain.v1 import explain_service_pb2

    return client.explain.GetExplainResult(explain_service_pb2.GetExplainResultRequest(job_id=job_id))


def _change(client: Client, first: str, other: str) -> explain_service_pb2.CompareExplainsResponse:
    """How another run compares with the first one; its pairs are left out."""
    from mistudio.explain.v1 import explain_service_pb2

    request = explain_service_pb2.CompareExplainsRequest(job_id=first, other=other, page_size=1)
    compared = client.explain.CompareExplains(request)
    compared.ClearField("pairs")
    return compared


def row_of(
    entry: str,
    result: explain_service_pb2.GetExplainResultResponse,
    change: explain_service_pb2.CompareExplainsResponse | None,
) -> Sequence[object]:
    """One engine's row; `change` is None for the one that the others are compared with."""
    found = result.summary_insights
    engines = found.engines
    written = sum(e.explanations for e in engines)
    seconds = sum(e.latency_average * e.explanations for e in engines) / written if written else 0.0
    difference = ""
    if change is not None:
        low, high = change.quality_change_low, change.quality_change_high
        difference = f"{change.quality_change_average:+.3f} [{low:+.3f}, {high:+.3f}]"
    return (
        entry.partition("=")[0],
        ", ".join(sorted({e.model for e in engines})),
        result.total_features_processed,
        found.failed,
        f"{found.explanation_quality_average:.3f}",
        f"{found.accuracy_average:.3f}",
        f"{seconds:.2f}",
        f"{sum(e.prompt_tokens for e in engines):,}",
        f"{sum(e.completion_tokens for e in engines):,}",
        f"{sum(e.cost_usd for e in engines) or found.costs.local_cost:.4f}",
        difference,
    )
