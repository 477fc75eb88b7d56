"""Messages of mistudio.find.v1 <-> records of Find's domain."""

from __future__ import annotations

from collections.abc import Mapping

from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.records import JobRecord
from mistudio_find.config import FindConfig, FindResult
from mistudio_find.outputs import ANALYSIS_FILE
from mistudio_rpc import messages

_OPTIONAL = ("top_texts", "context_tokens", "quantiles", "contrast_texts", "keywords")


def config_of(request: find_service_pb2.StartFindRequest) -> FindConfig:
    """The configuration that a request asks for. Raises InvalidInput."""
    given = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL}
    return FindConfig(training_job_id=request.training_job_id, seed=request.seed, **given)


def result_message(result: FindResult) -> find_service_pb2.GetFindResultResponse:
    """What the worker stores; job, status and artifacts are added by the servicer."""
    return find_service_pb2.GetFindResultResponse(
        source_training_job=result.source_training_job,
        model_name=result.model_name,
        total_features=result.total_features,
        live_features=result.live_features,
        dead_features=result.dead_features,
        mean_coherence=result.mean_coherence,
        quality_levels=_counts(result.quality_levels),
        categories=_counts(result.categories),
        processing_time_seconds=result.processing_time_seconds,
        metrics_version=result.metrics_version,
        tokens=result.tokens,
        documents=result.documents,
        sae_sha256=result.sae_sha256,
    )


def _counts(counts: Mapping[str, int]) -> list[finding_pb2.FeatureCount]:
    return [finding_pb2.FeatureCount(name=name, count=count) for name, count in counts.items()]


def start_message(job: JobRecord) -> find_service_pb2.StartFindResponse:
    """The reply to a start: the same for the first one and for every equal one after it."""
    training = find_service_pb2.StartFindRequest.FromString(job.request).training_job_id
    return find_service_pb2.StartFindResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        message=f"Analysis of {training} started",
        training_job_id=training,
    )


def status_message(job: JobRecord) -> find_service_pb2.GetFindStatusResponse:
    """How far an analysis is."""
    done = job.progress.current if job.progress.unit == "features" else 0
    return find_service_pb2.GetFindStatusResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        progress=1.0 if job.status == "completed" else job.progress.fraction,
        features_done=int(done),
        estimated_time_remaining=job.progress.remaining_s,
        message=job.error.message if job.error else job.queue_reason or job.progress.stage or job.status,
        error=messages.error_message(job.error),
    )


def add_artifacts(
    response: find_service_pb2.GetFindResultResponse, job: JobRecord, artifacts: list[ArtifactRecord]
) -> find_service_pb2.GetFindResultResponse:
    """Completes a stored result with what the store knows."""
    response.job_id = job.job_id
    response.status = messages.status_value(job.status)
    response.feature_analysis_path = next((f"{a.uri}/{ANALYSIS_FILE}" for a in artifacts if a.kind == "features"), "")
    response.artifacts.extend(messages.artifact_message(a) for a in artifacts)
    return response


def feature_message(record: Mapping[str, object], *, brief: bool = False) -> feature_pb2.Feature:
    """A feature from its stored record; `brief` leaves the long lists out."""
    feature = messages.from_record(feature_pb2.Feature(), record)
    if brief:
        del feature.quantile_activations[:]
        del feature.contrast_texts[:]
    return feature
