"""feature_explanations.json: the published form, and the one that loses nothing."""

from __future__ import annotations

import json

from mistudio_explain.book import Book


def render(book: Book) -> bytes:
    """UTF-8 JSON without NaN."""
    body = {"job_metadata": book.metadata, "explanations": list(book.records), "summary_insights": book.summary}
    return json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False).encode()
