"""Messages of mistudio.find.v1 <-> records of Find's domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.home import Home
from mistudio_core.jobs.records import JobRecord
from mistudio_find.config import MAX_TOKENS, FindConfig, FindResult
from mistudio_find.outputs import ANALYSIS_FILE
from mistudio_find.search import Hit
from mistudio_rpc import messages

_PLAIN = ("training_job_id", "seed", "sae_uri", "model_name", "corpus_file", "hook_name", "max_tokens", "rules")
_LONG = ("quantile_activations", "contrast_texts", "near_contrast_texts")
_OPTIONAL = ("top_texts", "context_tokens", "quantiles", "contrast_texts", "keywords")
_ONE_OF_TRAINING = ("wait_for_training", "sae_name")
_ONE_OF_IMPORT = ("hook_name", "max_tokens", "huggingface_token")


def config_of(request: find_service_pb2.StartFindRequest, home: Home | None = None) -> FindConfig:
    """The configuration that a request asks for; `home` says where local files may be. Raises InvalidInput."""
    given = {field.name: value for field, value in request.ListFields() if field.name in (*_PLAIN, *_OPTIONAL)}
    _check_way(request)
    if home is not None:
        given |= {"model_root": Path(home.models), "sae_root": Path(home.saes), "rules_root": Path(home.rules)}
    return FindConfig(evidence_text=_evidence_text(request), **given)


def _evidence_text(request: find_service_pb2.StartFindRequest) -> str:
    return messages.enum_short(finding_pb2.EvidenceText.Name(request.evidence_text), "EVIDENCE_TEXT_") or "full"


def check_has_tokens(job: JobRecord, form: str) -> None:
    """Raises Unsupported for a form that holds all tokens of the corpus, of an analysis that may not show them."""
    text = _evidence_text(find_service_pb2.StartFindRequest.FromString(job.request))
    if text != "full":
        raise Unsupported(
            f"format {form} of this analysis",
            why=f"it holds every token of the corpus, and the analysis was made with evidence_text {text}",
            instead="Choose a format of the evidence, such as json or parquet, or start Find with evidence_text full.",
        )


def _check_way(request: find_service_pb2.StartFindRequest) -> None:
    """Exactly one of the two ways, and no field of the other one. Raises InvalidInput."""
    if not request.training_job_id and not request.sae_uri:
        raise InvalidInput.field(
            "training_job_id", "", "a training job; or set sae_uri, with model_name and corpus_file"
        )
    other, names = ("sae_uri", _ONE_OF_TRAINING) if request.sae_uri else ("training_job_id", _ONE_OF_IMPORT)
    for field, value in request.ListFields():
        if field.name in names:
            shown = "" if field.name == "huggingface_token" else value
            raise InvalidInput.field(field.name, shown, f"nothing, where {other} is set", "Leave it out.")


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
        sae_origin=None if result.sae_origin is None else finding_pb2.SaeOrigin(**result.sae_origin),
        lineage=finding_pb2.Lineage(**result.lineage) if result.lineage else None,
        versions=[finding_pb2.MethodVersion(name=name, version=v) for name, v in result.versions.items()],
    )


def _counts(counts: Mapping[str, int]) -> list[finding_pb2.FeatureCount]:
    return [finding_pb2.FeatureCount(name=name, count=count) for name, count in counts.items()]


def start_message(job: JobRecord) -> find_service_pb2.StartFindResponse:
    """The reply to a start: the same for the first one and for every equal one after it."""
    request = find_service_pb2.StartFindRequest.FromString(job.request)
    what = request.training_job_id
    if request.sae_uri:
        most = request.max_tokens if request.HasField("max_tokens") else MAX_TOKENS
        what = f"{request.sae_uri} with {request.model_name} on {request.corpus_file}, at most {most:,} tokens,"
    return find_service_pb2.StartFindResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        message=f"Analysis of {what} started"[:1000],
        training_job_id=request.training_job_id,
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
    return fill_feature(feature_pb2.Feature(), record, brief=brief)


def fill_feature(
    feature: feature_pb2.Feature, record: Mapping[str, object], *, brief: bool = True
) -> feature_pb2.Feature:
    """The same into a message that stands in a larger one already, which saves a copy."""
    shown = {key: value for key, value in record.items() if key not in _LONG} if brief else record
    return messages.from_record(feature, shown)


def feature_event(record: Mapping[str, object]) -> find_service_pb2.WatchFeaturesResponse:
    """A feature as a watch sends it."""
    feature = feature_message(record, brief=True)
    event = find_service_pb2.FeatureEvent(sequence=feature.feature_id + 1, feature=feature)
    return find_service_pb2.WatchFeaturesResponse(event=event)


def hit_message(hit: Hit) -> find_service_pb2.SearchHit:
    """Where a feature was found."""
    feature = hit.record["feature_id"]
    return find_service_pb2.SearchHit(job_id=hit.job_id, feature_id=feature, snippet=hit.snippet, score=hit.score)
