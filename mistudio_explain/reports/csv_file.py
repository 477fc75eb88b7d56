"""CSV: one row an explanation, safe to open in a spreadsheet.

Every field is quoted. In a text ' stands before what a spreadsheet could take for a formula, at the start and behind
a quote or separator; numbers are not changed. feature_explanations.json loses nothing.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from mistudio_core.spreadsheet import cell_text
from mistudio_explain.book import Book
from mistudio_explain.table import Record

PARTS = ("accuracy", "clarity", "consistency", "relevance", "accuracy_low", "accuracy_high", "accuracy_near")
TEXTS = (
    *("pattern_verification", "safety_assessment", "safety_reason", "business_relevance", "pattern_category"),
    *("engine", "model", "strategy", "prompt_version", "failure"),
)
NUMBERS = (
    *("original_coherence", "explanation_quality", "explanation_confidence"),
    *("prompt_tokens", "completion_tokens", "latency_seconds", "attempts", "cost_usd"),
)
LISTS = ("pattern_keywords", "explanation_keywords", "flags")
REVIEW = ("verdict", "correction", "reason", "author", "reviewed_at")
HEADER = (
    *("feature_id", "explanation"),
    *NUMBERS,
    *PARTS,
    *("accuracy_method", "activating_texts", "silent_texts", "judge_failures"),
    *TEXTS,
    "cached",
    *LISTS,
    *(f"review_{name}" for name in REVIEW),
)
"""Names of the columns."""
_SEPARATOR = "; "


def render(book: Book) -> bytes:
    """UTF-8 with a byte order mark, so that spreadsheets know."""
    target = io.StringIO(newline="")
    writer = csv.writer(target, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(HEADER)
    writer.writerows(_row(record) for record in book.records)
    return ("\ufeff" + target.getvalue()).encode("utf-8", "replace")


def _row(record: Record) -> list[str]:
    parts, review = record["quality_parts"], record.get("review") or {}
    counts = (parts["activating_texts"], parts["silent_texts"], parts["judge_failures"])
    return [
        str(record["feature_id"]),
        cell_text(record["explanation"]),
        *(_number(record[name]) for name in NUMBERS),
        *(_number(parts[name]) for name in PARTS),
        cell_text(parts["accuracy_method"]),
        *(str(count) for count in counts),
        *(cell_text(record[name]) for name in TEXTS),
        "true" if record["cached"] else "false",
        *(cell_text(_SEPARATOR.join(record[name])) for name in LISTS),
        *(cell_text(review.get(name, "")) for name in REVIEW),
    ]


def _number(value: Any) -> str:
    return "" if value is None else repr(value)
