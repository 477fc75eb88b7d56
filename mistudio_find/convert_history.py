"""Messages of history and comparisons <-> records of the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.retention import Removal
from mistudio_find.compare import Wanted
from mistudio_find.compare_desk import Made
from mistudio_find.comparison_rows import CHANGES
from mistudio_find.history import Only, Past, Policy
from mistudio_rpc import messages

_FILTERED = find_service_pb2.ListFindHistoryRequest | find_service_pb2.PruneFindHistoryRequest
_TIERS = feature_pb2.QualityLevel.values()[1:]
_CATEGORIES = feature_pb2.PatternCategory.values()[1:]
_MOST_USERS = 5


def past_of(job: JobRecord) -> Past:
    """What a job's row tells of its analysis."""
    result, lineage = _result(job)
    return Past(
        job=job,
        model_name=lineage.model_name or result.model_name or job.model_name,
        sae_sha256=lineage.sae_sha256,
        corpus_file=lineage.corpus_file,
        corpus_sha256=lineage.corpus_sha256,
    )


def _result(job: JobRecord) -> tuple[find_service_pb2.GetFindResultResponse, finding_pb2.Lineage]:
    """(the stored result, its lineage as far as anything tells it)."""
    result = find_service_pb2.GetFindResultResponse.FromString(job.result or b"")
    request = find_service_pb2.StartFindRequest.FromString(job.request)
    lineage = finding_pb2.Lineage(
        training_job_id=result.source_training_job or request.training_job_id,
        model_name=result.model_name,
        model_revision=result.sae_origin.model_revision,
        hook_name=result.sae_origin.hook_name,
        sae_sha256=result.sae_sha256,
        corpus_file=request.corpus_file,
        corpus_sha256=result.sae_origin.corpus_sha256,
    )
    lineage.MergeFrom(result.lineage)
    lineage.sae_name = request.sae_name
    return result, lineage


def only_of(request: _FILTERED) -> Only:
    """Which analyses a request means."""
    return Only(corpus_file=request.corpus_file, sae_sha256=request.sae_sha256, model_name=request.model_name)


def policy_of(request: find_service_pb2.PruneFindHistoryRequest) -> Policy:
    """Which of them may go."""
    given = {name: getattr(request, name) for name in ("keep_newest", "older_than_days") if request.HasField(name)}
    return Policy(**given)


def entry_message(past: Past, artifacts: Sequence[ArtifactRecord]) -> find_service_pb2.AnalysisEntry:
    """An analysis with its lineage."""
    job = past.job
    result, lineage = _result(job)
    request = find_service_pb2.StartFindRequest.FromString(job.request)
    request.huggingface_token = ""
    return find_service_pb2.AnalysisEntry(
        job_id=job.job_id,
        completed_at=messages.timestamp(past.completed_at),
        lineage=lineage,
        versions=result.versions,
        request=request,
        total_features=result.total_features,
        live_features=result.live_features,
        mean_coherence=result.mean_coherence,
        tokens=result.tokens,
        documents=result.documents,
        size_bytes=sum(record.size_bytes for record in artifacts),
        pruned=all(record.kind != "features" for record in artifacts),
    )


def wanted_of(request: find_service_pb2.CompareFindsRequest) -> Wanted:
    """How analyses are to be compared."""
    method = messages.enum_short(finding_pb2.MatchMethod.Name(request.method), "MATCH_METHOD_")
    least = request.min_similarity if request.HasField("min_similarity") else None
    return Wanted(method=method, min_similarity=least)


def comparison_message(made: Made) -> find_service_pb2.Comparison:
    """A comparison as a whole."""
    summary = dict(made.summary)
    changes, method = summary.pop("changes"), summary.pop("method")
    return find_service_pb2.Comparison(
        **summary,
        other_job_id=made.other,
        method=finding_pb2.MatchMethod.Value(f"MATCH_METHOD_{method.upper()}"),
        changes=[find_service_pb2.ChangeCount(change=_change(name), count=n) for name, n in changes.items() if n],
    )


def match_message(row: Mapping[str, Any], other: str) -> find_service_pb2.FeatureMatch:
    """A row that is a match."""
    return find_service_pb2.FeatureMatch(
        feature_id=row["one"],
        other_feature_id=row["two"],
        similarity=row["similarity"],
        other_job_id=other,
        mutual=bool(row["mutual"]),
        feature=_brief(row, "one"),
        other_feature=_brief(row, "two"),
        changes=[_change(name) for bit, name in enumerate(CHANGES) if row["changes"] >> bit & 1],
    )


def lone_message(row: Mapping[str, Any], other: str, side: str) -> find_service_pb2.LoneFeature:
    """A row of a feature that has no match; `side` is the one that it is on."""
    best = row["similarity"]
    return find_service_pb2.LoneFeature(
        other_job_id=other,
        feature=_brief(row, side),
        best_similarity=best if best == best else None,  # noqa: PLR0124
    )


def _change(name: str) -> finding_pb2.FeatureChange.ValueType:
    return finding_pb2.FeatureChange.Value(f"FEATURE_CHANGE_{name.upper()}")


def _brief(row: Mapping[str, Any], side: str) -> find_service_pb2.FeatureBrief:
    return find_service_pb2.FeatureBrief(
        feature_id=row[side],
        coherence_score=round(row[f"{side}_coherence"], 6),
        quality_level=_TIERS[row[f"{side}_tier"]],
        pattern_category=_CATEGORIES[row[f"{side}_category"]],
        frequency=row[f"{side}_frequency"],
    )


def pruned_message(past: Past, removal: Removal) -> find_service_pb2.PrunedAnalysis:
    """An analysis that goes, or stays for who builds on it."""
    return find_service_pb2.PrunedAnalysis(
        job_id=past.job.job_id,
        completed_at=messages.timestamp(past.completed_at),
        corpus_file=past.corpus_file,
        sae_sha256=past.sae_sha256,
        size_bytes=sum(record.size_bytes for record in removal.records),
        used_by=removal.used_by[:_MOST_USERS],
    )
