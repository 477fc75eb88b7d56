"""Messages of mistudio.explain.v1 <-> records of Explain's domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from mistudio.explain.v1 import explain_service_pb2, explanation_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.records import JobRecord
from mistudio_explain.config import ExplainConfig, ExplainResult
from mistudio_explain.engines.settings import EngineSettings
from mistudio_rpc import messages

EXPLANATIONS_FILE = "feature_explanations.json"
REPORT_FILE = "explanation_report.html"
_OPTIONAL = ("max_features", "min_coherence", "concurrency")


def config_of(request: explain_service_pb2.StartExplainRequest) -> ExplainConfig:
    """The configuration that a request asks for. Raises InvalidInput."""
    given = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL}
    return ExplainConfig(
        find_job_id=request.find_job_id,
        engine=request.engine,
        model=request.model,
        feature_ids=tuple(request.feature_ids),
        allow_lexical_fallback=request.allow_lexical_fallback,
        seed=request.seed,
        **given,
    )


def result_message(result: ExplainResult) -> explain_service_pb2.GetExplainResultResponse:
    """What the worker stores; job, status and artifacts are added by the servicer."""
    return explain_service_pb2.GetExplainResultResponse(
        source_find_job=result.source_find_job,
        total_features_processed=result.total_features_processed,
        processing_time_seconds=result.processing_time_seconds,
        summary_insights=explanation_pb2.SummaryInsights(**asdict(result.summary_insights)),
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
    uris = {a.kind: a.uri for a in artifacts}
    response.job_id = job.job_id
    response.status = messages.status_value(job.status)
    response.explanations_path = f"{uris['explanations']}/{EXPLANATIONS_FILE}" if "explanations" in uris else ""
    response.report_path = f"{uris['report']}/{REPORT_FILE}" if "report" in uris else ""
    response.artifacts.extend(messages.artifact_message(a) for a in artifacts)
    return response


def explanation_message(record: Mapping[str, object]) -> explanation_pb2.Explanation:
    """An explanation from its stored record."""
    return messages.from_record(explanation_pb2.Explanation(), record)


def engine_message(settings: EngineSettings) -> explanation_pb2.Engine:
    """An engine as callers see it: no address, no key."""
    return explanation_pb2.Engine(
        name=settings.name, kind=settings.kind, default_model=settings.model, is_default=settings.is_default
    )
