"""The audit report as PDF: what its page shows, set for paper, with the sealed document attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_core.seal import canonical
from mistudio_explain.book import Book
from mistudio_explain.reports.audit import document
from mistudio_explain.reports.audit_page import content
from mistudio_explain.reports.typesetting import day_of, typeset


def render(book: Book, fonts: Path | None = None) -> bytes:
    """The PDF."""
    body = document(book)
    return typeset("audit_report.typ", _data(body), fonts, inputs={"document": canonical(body).decode()}, tagged=True)


def _data(body: Mapping[str, Any]) -> dict[str, Any]:
    c = content(body)
    return {
        **c,
        "note": "",
        "day": day_of(body["run"]["explained_at"]),
        "metrics": [(name, f"{definition}. {limits}") for name, definition, limits in c["metrics"]],
        "flagged": [
            {
                **f,
                "feature_id": str(f["feature_id"]),
                "quality": f"{f['quality']:.2f}",
                "explanation": f["explanation"] or "No explanation.",
            }
            for f in c["flagged"]
        ],
        "features": [_feature(f) for f in c["features"]],
        "reviews": [(str(feature_id), line) for feature_id, line in c["reviews"]],
    }


def _feature(feature: Mapping[str, Any]) -> list[str]:
    low, high = feature["accuracy_interval"]
    return [
        str(feature["feature_id"]),
        feature["explanation"],
        feature["pattern_verification"],
        feature["safety_assessment"].replace("_", " "),
        f"{feature['accuracy']:.2f} ({low:.2f} to {high:.2f})",
        feature["verdict"],
    ]
