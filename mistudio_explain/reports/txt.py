"""Plain text: a few lines a feature, best first, for reading and searching with ordinary tools."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mistudio_explain.book import Book
from mistudio_explain.reports.words import plain, verdict_line
from mistudio_explain.table import Record

_WIDTH = 100


def render(book: Book) -> bytes:
    """UTF-8."""
    return "\n".join(_lines(book)).encode("utf-8", "replace")


def _lines(book: Book) -> Iterator[str]:
    summary, metadata = book.summary, book.metadata
    yield f"Feature explanations of {plain(str(book.technical.get('model', ''))) or 'a model'}"
    yield f"Explain job {metadata['explain_job_id']}, Find job {metadata['source_find_job']}"
    yield f"{metadata['total_features_processed']} features by {metadata['engine']}, {summary['failed']} failed"
    quality, accuracy = summary["explanation_quality_average"], summary["accuracy_average"]
    yield f"mean quality {quality:.4f}, mean accuracy {accuracy:.4f}, {summary['flagged']} flagged"
    if summary.get("reviewed"):
        yield f"{summary['reviewed']} reviewed, human accuracy {summary['human_accuracy']:.4f}"
    yield "Explanations are model or rule output, not facts."
    yield ""
    for record in book.records:
        yield from _feature(record)


def _feature(record: Record) -> Iterator[str]:
    parts = record["quality_parts"]
    yield f"Feature {record['feature_id']}"
    if record["failure"]:
        yield from _wrapped("failed: ", record["failure"])
    else:
        yield from _wrapped("", record["explanation"])
        yield (
            f"  quality {record['explanation_quality']:.4f} (accuracy {parts['accuracy']:.4f} "
            f"[{parts['accuracy_low']:.4f}, {parts['accuracy_high']:.4f}], clarity {parts['clarity']:.4f}, "
            f"consistency {parts['consistency']:.4f}, relevance {parts['relevance']:.4f}); "
            f"{record['pattern_verification']}"
        )
    yield (
        f"  coherence {record['original_coherence']:.4f}, {record['pattern_category']}, safety "
        f"{record['safety_assessment']}, relevance {record['business_relevance']}, "
        f"by {plain(record['engine'])} ({plain(record['model'])})"
    )
    yield from _wrapped("keywords: ", ", ".join(record["pattern_keywords"]))
    for flag in record["flags"]:
        yield from _wrapped("look: ", flag)
    if record.get("review"):
        yield from _wrapped("", verdict_line(record["review"]))
    yield ""


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(label + plain(text), _WIDTH, initial_indent="  ", subsequent_indent="  ") if text else []
