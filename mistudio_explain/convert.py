"""Messages of mistudio.explain.v1 <-> records of Explain's domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from mistudio.explain.v1 import explain_service_pb2, explanation_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.reviews import APPROVED, ReviewRecord
from mistudio_explain.compare import Pair
from mistudio_explain.config import AUDIENCES, STRATEGIES, ExplainConfig, ExplainResult
from mistudio_rpc import messages

EXPLANATIONS_FILE = "feature_explanations.json"
"""Its name in the `explanations` artifact."""
REPORT_FILE = "explanation_report.html"
"""Its name in the `report` artifact."""
_PLAIN = ("find_job_id", "engine", "model", "allow_lexical_fallback", "seed", "budget_usd", "min_quality")
_SAME = (*_PLAIN, "judge_engine", "judge_model", "few_shot")
_OPTIONAL = ("max_features", "min_coherence", "concurrency", "use_cache")


def config_of(request: explain_service_pb2.StartExplainRequest) -> ExplainConfig:
    """The configuration that a request asks for. Raises InvalidInput."""
    given = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL}
    given |= {name: getattr(request, name) for name in _SAME}
    return ExplainConfig(
        feature_ids=tuple(request.feature_ids),
        audience=audience_of(request.audience),
        strategy=strategy_of(request.strategy),
        **given,
    )


def live_config_of(request: explain_service_pb2.ExplainFeatureRequest) -> ExplainConfig:
    """What one explanation is asked for with. Raises InvalidInput."""
    return ExplainConfig(
        find_job_id=request.find_job_id,
        engine=request.engine,
        model=request.model,
        feature_ids=(request.feature_id,),
        audience=audience_of(request.audience),
        strategy=strategy_of(request.strategy),
        seed=request.seed,
        budget_usd=request.budget_usd,
        use_cache=False,
    )


def audience_of(value: explanation_pb2.Audience.ValueType) -> str:
    """The short name of an audience; the default for none."""
    return messages.enum_short(explanation_pb2.Audience.Name(value), "AUDIENCE_") or AUDIENCES[0]


def strategy_of(value: explanation_pb2.Strategy.ValueType) -> str:
    """The short name of a strategy; the default for none."""
    return messages.enum_short(explanation_pb2.Strategy.Name(value), "STRATEGY_") or STRATEGIES[0]


def result_message(result: ExplainResult) -> explain_service_pb2.GetExplainResultResponse:
    """What the worker stores; job, status and artifacts are added by the servicer."""
    return explain_service_pb2.GetExplainResultResponse(
        source_find_job=result.source_find_job,
        total_features_processed=result.total_features_processed,
        processing_time_seconds=result.processing_time_seconds,
        summary_insights=summary_message(asdict(result.summary_insights)),
        metrics_version=result.metrics_version,
        engine=result.engine,
    )


def start_message(job: JobRecord) -> explain_service_pb2.StartExplainResponse:
    """The reply to a start: the same for the first one and for every equal one after it."""
    request = explain_service_pb2.StartExplainRequest.FromString(job.request)
    return explain_service_pb2.StartExplainResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        message=f"Explanation of {request.find_job_id} started with {request.engine}",
        find_job_id=request.find_job_id,
        engine=request.engine,
    )


def status_message(job: JobRecord) -> explain_service_pb2.GetExplainStatusResponse:
    """How far a run is."""
    done = job.progress.current if job.progress.unit == "features" else 0
    return explain_service_pb2.GetExplainStatusResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        progress=1.0 if job.status == "completed" else job.progress.fraction,
        features_done=int(done),
        estimated_time_remaining=job.progress.remaining_s,
        message=job.error.message if job.error else job.queue_reason or job.progress.stage or job.status,
        error=messages.error_message(job.error),
    )


def add_artifacts(
    response: explain_service_pb2.GetExplainResultResponse, job: JobRecord, artifacts: list[ArtifactRecord]
) -> explain_service_pb2.GetExplainResultResponse:
    """Completes a stored result with what the store knows."""
    uris = {a.uri for a in artifacts}
    explanations, report = (artifact_uri(job.job_id, name, name) for name in ("explanations", "report"))
    response.job_id = job.job_id
    response.status = messages.status_value(job.status)
    response.explanations_path = f"{explanations}/{EXPLANATIONS_FILE}" if explanations in uris else ""
    response.report_path = f"{report}/{REPORT_FILE}" if report in uris else ""
    response.artifacts.extend(messages.artifact_message(a) for a in artifacts)
    return response


def explanation_message(record: Mapping[str, Any]) -> explanation_pb2.Explanation:
    """An explanation from its stored record, with its review where it has one."""
    review = record.get("review")
    message = messages.from_record(explanation_pb2.Explanation(), {**record, "review": None})
    if review:
        messages.from_record(message.review, {**review, "reviewed_at": None})
        message.review.reviewed_at.FromDatetime(datetime.fromisoformat(review["reviewed_at"]))
    return message


def add_reviews(summary: explanation_pb2.SummaryInsights, latest: Sequence[ReviewRecord]) -> None:
    """Completes stored figures with the last verdict on each explanation."""
    summary.reviewed = len(latest)
    if latest:
        summary.human_accuracy = sum(r.verdict == APPROVED for r in latest) / len(latest)


def asked_of(job: JobRecord) -> explain_service_pb2.StartExplainRequest:
    """What a job was asked to do."""
    return explain_service_pb2.StartExplainRequest.FromString(job.request)


def run_message(job: JobRecord, result: explain_service_pb2.GetExplainResultResponse) -> explain_service_pb2.ExplainRun:
    """A completed run of the history."""
    asked = asked_of(job)
    return explain_service_pb2.ExplainRun(
        job_id=job.job_id,
        find_job_id=asked.find_job_id,
        engine=asked.engine,
        model=asked.model,
        completed_at=messages.timestamp(job.completed_at),
        summary_insights=result.summary_insights,
    )


def pair_message(pair: Pair) -> explain_service_pb2.ExplanationPair:
    """One feature in two runs."""
    return explain_service_pb2.ExplanationPair(
        feature_id=pair.first["feature_id"],
        first=explanation_message(pair.first),
        other=explanation_message(pair.other),
        quality_change=pair.change,
    )


def summary_message(summary: Mapping[str, Any]) -> explanation_pb2.SummaryInsights:
    """Counts and averages."""
    return messages.from_record(explanation_pb2.SummaryInsights(), summary)
