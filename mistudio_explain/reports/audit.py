"""The audit report as a document: what was explained, by what, how well that is known, and who looked.

Sealed with a digest over its canonical JSON; page and PDF show the same document and carry it. It holds no time
of its own making: the same run with the same verdicts gives the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mistudio_core.jobs.reviews import ReviewRecord
from mistudio_core.seal import sealed
from mistudio_explain.book import Book
from mistudio_explain.reports.words import METRICS
from mistudio_explain.table import Record

VERSION = "audit/1"
"""Form of the document."""
ROLES = ("Prepared by", "Reviewed by", "Approved by")
"""Who signs."""
_NOTES = (
    "Explanations are model or rule output, not facts.",
    "Flags and safety assessments find words and figures, not intent; what is not flagged is not thereby safe.",
    "The digest shows a change of this document; it does not say who made it. Sign a printed copy or keep the digest "
    "where it cannot be changed.",
)
_LINEAGE = (
    *("model", "model_revision", "layer", "hook_name", "training_job", "find_job", "explain_job"),
    *("sae_sha256", "corpus_sha256"),
)
_EVIDENCE_TEXTS = 3
_SHORT = (
    *("feature_id", "explanation", "explanation_quality", "explanation_confidence", "original_coherence"),
    *("pattern_verification", "safety_assessment", "business_relevance", "pattern_category"),
    *("engine", "model", "prompt_version", "failure"),
)


def render(book: Book) -> bytes:
    """UTF-8 JSON with its seal."""
    return json.dumps(document(book), ensure_ascii=False, indent=1, allow_nan=False).encode()


def document(book: Book) -> dict[str, Any]:
    """The sealed document."""
    technical = book.technical
    origin = {k: v for k, v in technical.items() if k in _LINEAGE or k.startswith("origin_")}
    return sealed(
        {
            "version": VERSION,
            "title": "Audit report of feature explanations",
            "notes": list(_NOTES),
            "lineage": origin,
            "run": dict(book.metadata),
            "configuration": technical.get("configuration", {}),
            "find_configuration": technical.get("find_configuration", {}),
            "versions": _versions(technical),
            "metrics": [{"name": n, "definition": d, "limits": limits} for n, d, limits in METRICS],
            "summary": dict(book.summary),
            "flagged": [_flagged(r, book.evidence.get(r["feature_id"], {})) for r in book.records if r["flags"]],
            "features": [_short(record) for record in book.records],
            "reviews": [_review(review) for review in book.reviews],
            "sign_off": [{"role": role, "name": "", "date": "", "signature": ""} for role in ROLES],
        }
    )


def _versions(technical: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metrics": technical.get("metrics", ""),
        "safety_rules": technical.get("safety_rules", ""),
        "find": technical.get("find_versions", {}),
        "rule_files_sha256": technical.get("rule_files", {}),
        "software": technical.get("software", {}),
    }


def _short(record: Record) -> dict[str, Any]:
    parts = record["quality_parts"]
    return {
        **{name: record[name] for name in _SHORT},
        "accuracy": parts["accuracy"],
        "accuracy_interval": [parts["accuracy_low"], parts["accuracy_high"]],
        "accuracy_method": parts["accuracy_method"],
        "verdict": (record.get("review") or {}).get("verdict", ""),
    }


def _flagged(record: Record, evidence: Mapping[str, Any]) -> dict[str, Any]:
    texts = [
        {"text": t["text"], "strength": max(t["activations"], default=0.0), "context": t["context"]}
        for t in evidence.get("texts", ())[:_EVIDENCE_TEXTS]
    ]
    return {
        "feature_id": record["feature_id"],
        "flags": record["flags"],
        "explanation": record["explanation"],
        "safety_assessment": record["safety_assessment"],
        "safety_reason": record["safety_reason"],
        "explanation_quality": record["explanation_quality"],
        "pattern_keywords": record["pattern_keywords"],
        "evidence": texts,
        "review": record.get("review"),
    }


def _review(review: ReviewRecord) -> dict[str, Any]:
    return {
        "feature_id": review.feature_id,
        "verdict": review.verdict,
        "correction": review.correction,
        "reason": review.reason,
        "author": review.author,
        "reviewed_at": review.reviewed_at.isoformat(),
    }
