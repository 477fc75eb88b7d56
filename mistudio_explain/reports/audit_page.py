"""The audit report as one self-contained page: the document for people, and the document itself, sealed.

What is shown is read from the document alone. See page.py for what keeps the page inert.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from mistudio_core.seal import HOLDER, KEY, canonical
from mistudio_explain.book import Book
from mistudio_explain.reports.audit import document
from mistudio_explain.reports.page import page, parts, rows
from mistudio_explain.reports.words import plain, verdict_line

_LINE = 100


def render(book: Book) -> bytes:
    """The page, UTF-8."""
    return render_document(document(book))


def render_document(body: Mapping[str, Any]) -> bytes:
    """The page of a document."""
    data = base64.b64encode(canonical(body)).decode()
    held = "\n".join(data[at : at + _LINE] for at in range(0, len(data), _LINE))
    return page("audit_report.html.j2", {**content(body), "held": held, "holder": HOLDER, "digest_id": KEY})


def content(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the page and the PDF show of a document."""
    summary = body["summary"]
    return {
        "title": body["title"],
        "notes": body["notes"],
        "digest": body[KEY]["sha256"],
        "method": body[KEY]["method"],
        "lineage": rows(body["lineage"]),
        "run": [row for row in rows(body["run"]) if row[0] != "lineage"],
        "configuration": rows(body["configuration"]),
        "find_configuration": rows(body["find_configuration"]),
        "versions": rows(body["versions"]),
        "version_parts": parts(body["versions"]),
        "summary": [row for row in rows(summary) if row[0] != "engines"],
        "summary_parts": parts(summary),
        "metrics": [(m["name"], m["definition"], m["limits"]) for m in body["metrics"]],
        "flagged": [_flagged(f) for f in body["flagged"]],
        "features": [{**f, "explanation": plain(f["explanation"] or f["failure"])} for f in body["features"]],
        "reviews": [(r["feature_id"], plain(verdict_line(r))) for r in body["reviews"]],
        "sign_off": [s["role"] for s in body["sign_off"]],
    }


def _flagged(feature: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "feature_id": feature["feature_id"],
        "explanation": plain(feature["explanation"]),
        "flags": [plain(flag) for flag in feature["flags"]],
        "reason": plain(feature["safety_reason"]),
        "safety": feature["safety_assessment"].replace("_", " "),
        "quality": feature["explanation_quality"],
        "keywords": plain(", ".join(feature["pattern_keywords"])),
        "evidence": [(plain(e["text"]), f"{e['strength']:.3g}", plain(e["context"])) for e in feature["evidence"]],
        "verdict": plain(verdict_line(feature["review"])) if feature["review"] else "",
    }
