"""A run as reports show it: its records with what people decided, its figures and its evidence.

Every form of the results is made from one Book, so that they agree. Owns how verdicts enter records
and figures; how a form looks stands in reports/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_core.jobs.reviews import APPROVED, CORRECTED, REJECTED, ReviewRecord
from mistudio_explain.evidence import FeatureEvidence, TopText
from mistudio_explain.table import ExplanationTable, Record

MOST_SHOWN = 300
"""Features that reports show with their evidence: the best ones; what is flagged stands beside them."""
MOST_FLAGGED = 300
"""Flagged features that reports show with their evidence."""
_TEXTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """All that the forms of a run are made from."""

    metadata: Mapping[str, Any]
    """`job_metadata` of feature_explanations.json."""
    records: Sequence[Record]
    """The explanations, best first; `review` is there where a person has decided."""
    summary: Mapping[str, Any]
    """`summary_insights`."""
    technical: Mapping[str, Any]
    """Lineage, configuration and versions."""
    evidence: Mapping[int, Mapping[str, Any]]
    """What reports show of the features, by feature."""
    reviews: Sequence[ReviewRecord] = ()
    """Every verdict on the run, oldest first."""


def read_book(table: ExplanationTable, reviews: Sequence[ReviewRecord] = ()) -> Book:
    """The run in a table, with its verdicts, oldest first. Raises Corrupt."""
    latest = {review.feature_id: review for review in reviews}
    records = [with_review(record, latest.get(record["feature_id"])) for record in table.records()]
    return Book(
        metadata=table.about("job_metadata"),
        records=records,
        summary={**table.about("summary_insights"), **review_figures(records)},
        technical=table.about("technical"),
        evidence=table.evidence(),
        reviews=tuple(reviews),
    )


def with_review(record: Record, review: ReviewRecord | None) -> Record:
    """A record with what a person decided last; the engine's own words stay as they are."""
    if review is None:
        return record
    shown = {
        "verdict": review.verdict,
        "correction": review.correction,
        "reason": review.reason,
        "author": review.author,
        "reviewed_at": review.reviewed_at.isoformat(),
    }
    return {**record, "review": shown}


def review_figures(records: Sequence[Record]) -> dict[str, Any]:
    """`reviewed` and, where there are any, `human_accuracy`, `human_agreement` and the counts of verdicts.

    human_accuracy: share approved as they stand. human_agreement: of the reviewed ones that held-out texts
    confirm or contradict, the share on which people say the same (approved where confirmed, else not).
    """
    decided = [r for r in records if r.get("review")]
    if not decided:
        return {"reviewed": 0}
    verdicts = [r["review"]["verdict"] for r in decided]
    figures: dict[str, Any] = {
        "reviewed": len(decided),
        "human_accuracy": round(verdicts.count(APPROVED) / len(decided), 4),
        "verdicts": {name: verdicts.count(name) for name in (APPROVED, CORRECTED, REJECTED)},
    }
    sure = [r for r in decided if r["pattern_verification"] in ("confirmed", "contradicted")]
    same = [(r["pattern_verification"] == "confirmed") == (r["review"]["verdict"] == APPROVED) for r in sure]
    return figures | ({"human_agreement": round(sum(same) / len(same), 4)} if same else {})


def shown_evidence(evidence: FeatureEvidence) -> dict[str, Any]:
    """What reports show of a feature."""
    statistics = evidence.statistics
    return {
        "quality_level": evidence.quality_level,
        "frequency": float(statistics.get("frequency", 0.0)),
        "histogram_counts": list(statistics.get("histogram_counts", ())),
        "histogram_edges": list(statistics.get("histogram_edges", ())),
        "texts": [_shown_text(text) for text in evidence.top[:_TEXTS]],
    }


def _shown_text(text: TopText) -> dict[str, Any]:
    return {
        "text": text.text,
        "tokens": list(text.tokens),
        "activations": [round(float(a), 6) for a in text.activations],
        "context": text.context,
    }


def with_evidence(records: Sequence[Record]) -> list[int]:
    """Features whose evidence reports show: the best ones, then the flagged ones."""
    best = [r["feature_id"] for r in records[:MOST_SHOWN]]
    flagged = [r["feature_id"] for r in records[MOST_SHOWN:] if r["flags"]]
    return best + flagged[:MOST_FLAGGED]
