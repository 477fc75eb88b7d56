"""The HTML report: one self-contained file without script, made for people.

Owns what the template shows; autoescape is always on, the only markup from here is our own style
sheet, whose hash the page's policy names. Corpus text is cleaned of control signs and isolated in its direction.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mistudio_explain.book import MOST_SHOWN, Book
from mistudio_explain.insights import CONCERNS
from mistudio_explain.reports import charts
from mistudio_explain.reports.words import CATEGORIES, METRICS, TIERS, headline, insights, plain, verdict_line
from mistudio_explain.table import Record

_BEST = 10


def render(book: Book) -> bytes:
    """The page, UTF-8."""
    return page("explanation_report.html.j2", content(book))


def page(template: str, values: Mapping[str, Any]) -> bytes:
    """A template of ours with our style sheet, whose hash is the only style that its policy allows."""
    style, digest = _style()
    made = _environment().get_template(template).render(style=style, style_hash=f"sha256-{digest}", **values)
    return made.encode("utf-8", "replace")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("mistudio_explain")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


@lru_cache(maxsize=1)
def _style() -> tuple[Markup, str]:
    style = resources.files("mistudio_explain").joinpath("templates/report.css").read_text(encoding="utf-8")
    # our own file, and the policy's hash must match its bytes
    return Markup(style), base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()  # noqa: S704


def content(book: Book) -> dict[str, Any]:
    """What the page and the PDF show."""
    cards = [card(r, book.evidence.get(r["feature_id"], {})) for r in book.records[:MOST_SHOWN]]
    done = [r for r in book.records if not r["failure"]]
    return {
        "metadata": book.metadata,
        "summary": book.summary,
        "headline": headline(book),
        "best": [c for c in cards if not c["e"]["failure"]][:_BEST],
        "groups": [(n, found) for n in CATEGORIES if (found := [c for c in cards if c["e"]["pattern_category"] == n])],
        "concerns": [short(r) for r in book.records if r["safety_assessment"] in CONCERNS],
        "flagged": [short(r) for r in book.records if r["flags"]],
        "left_out": max(0, len(book.records) - MOST_SHOWN),
        "quality_chart": charts.shares("quality", [r["explanation_quality"] for r in done]),
        "accuracy_chart": charts.shares("accuracy", [r["quality_parts"]["accuracy"] for r in done]),
        "tiers": charts.counts(TIERS, [e["quality_level"] for e in book.evidence.values()]),
        "categories": charts.counts(CATEGORIES, [r["pattern_category"] for r in book.records]),
        "lines": insights(book),
        "technical": book.technical,
        "technical_rows": rows(book.technical),
        "technical_parts": parts(book.technical),
        "metrics": METRICS,
    }


def rows(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of what is no table of its own and not empty."""
    flat = [(k, v) for k, v in body.items() if not isinstance(v, Mapping) and v not in ("", None, [])]
    return [(plain(name.replace("_", " ")), plain(_shown(value))) for name, value in flat]


def _shown(value: object) -> str:
    """A value as people read it: lists with commas, numbers without exponents."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def parts(body: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, rows) of the tables in it."""
    return [(k.replace("_", " "), rows(v)) for k, v in body.items() if isinstance(v, Mapping) and v]


def short(record: Record) -> dict[str, Any]:
    """What a list shows of a feature."""
    review = record.get("review")
    return {
        "e": record,
        "explanation": plain(record["explanation"]),
        "reason": plain(record["safety_reason"]),
        "flags": [plain(flag) for flag in record["flags"]],
        "verdict": plain(verdict_line(review)) if review else "",
    }


def card(record: Record, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What one feature's card shows."""
    return {
        **short(record),
        "failure": plain(record["failure"]),
        "engine": plain(record["engine"]),
        "model": plain(record["model"]),
        "keywords": [plain(k) for k in record["pattern_keywords"]],
        "texts": [charts.highlighted(t) for t in evidence.get("texts", ())],
        "histogram": charts.histogram(evidence),
        "frequency": f"{100 * evidence.get('frequency', 0.0):.2g} %",
    }
