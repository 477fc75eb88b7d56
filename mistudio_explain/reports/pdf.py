"""The PDF report: what the page shows, set for paper. See page.py for the content, typesetting.py for the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mistudio_explain.book import Book
from mistudio_explain.reports.page import content
from mistudio_explain.reports.typesetting import day_of, typeset

_PARTS = ("accuracy", "clarity", "consistency", "relevance")


def render(book: Book, fonts: Path | None = None) -> bytes:
    """The PDF."""
    return typeset("explanation_report.typ", _data(book), fonts)


def _data(book: Book) -> dict[str, Any]:
    c = content(book)
    metadata, summary, model = c["metadata"], c["summary"], str(c["technical"].get("model", "")) or "this model"
    return {
        "note": "",
        "day": day_of(metadata["explained_at"]),
        "model": model,
        "foot": f"run {metadata['explain_job_id']}",
        "subtitle": f"{metadata['total_features_processed']} features explained by {metadata['engine']}; "
        f"analysis {metadata['source_find_job']}; run {metadata['explain_job_id']}",
        "headline": c["headline"],
        "tiles": _tiles(summary),
        "quality_chart": asdict(c["quality_chart"]),
        "accuracy_chart": asdict(c["accuracy_chart"]),
        "tiers": c["tiers"],
        "categories": c["categories"],
        "best": [_best(card) for card in c["best"]],
        "groups": [{"name": n.capitalize(), "cards": [_card(card) for card in cards]} for n, cards in c["groups"]],
        "left_out": c["left_out"],
        "concerns": [
            [str(s["e"]["feature_id"]), s["e"]["safety_assessment"].replace("_", " "), s["reason"]]
            for s in c["concerns"]
        ],
        "flagged": [[str(s["e"]["feature_id"]), " ".join(s["flags"]), s["verdict"] or "waits"] for s in c["flagged"]],
        "lines": c["lines"],
        "engines": [_engine(s) for s in summary.get("engines") or ()],
        "safety_rules": str(c["technical"].get("safety_rules", "")),
        "technical": c["technical_rows"],
        "technical_parts": c["technical_parts"],
        "metrics": [(name, f"{definition}. {limits}") for name, definition, limits in c["metrics"]],
    }


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    tiles = [
        (f"{summary['explanation_quality_average']:.2f}", "mean quality"),
        (f"{summary['accuracy_average']:.2f}", "mean accuracy"),
        (str(summary["high_quality_explanations"]), "of quality 0.8 and above"),
        (str(summary["safety_concerns_identified"]), "to look at for safety"),
        (str(summary["flagged"]), f"flagged, {summary['reviewed']} reviewed"),
        (str(summary["failed"]), "failed"),
    ]
    people = [(f"{summary['human_accuracy']:.2f}", "human accuracy")] if summary.get("reviewed") else []
    return [*tiles, *people]


def _best(card: Mapping[str, Any]) -> dict[str, str]:
    e = card["e"]
    return {
        "id": str(e["feature_id"]),
        "explanation": card["explanation"],
        "category": e["pattern_category"],
        "quality": f"{e['explanation_quality']:.2f}",
    }


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    e = card["e"]
    parts, review = e["quality_parts"], e.get("review") or {}
    chips = [
        (e["pattern_verification"] or "no explanation", e["pattern_verification"]),
        (f"safety: {e['safety_assessment'].replace('_', ' ')}", e["safety_assessment"]),
        (e["pattern_category"], ""),
        (f"relevance: {e['business_relevance']}", ""),
    ]
    return {
        "id": str(e["feature_id"]),
        "line": f"quality {e['explanation_quality']:.2f} · coherence {e['original_coherence']:.2f} · "
        f"{card['engine']} ({card['model']})",
        "says": card["explanation"] or card["failure"],
        "verdict": card["verdict"],
        "chips": chips + ([(review["verdict"], review["verdict"])] if review else []),
        "notes": [*([card["reason"]] if card["reason"] else []), *card["flags"]],
        "texts": card["texts"],
        "histogram": asdict(card["histogram"]),
        "parts": [] if e["failure"] else [(name, parts[name], f"{parts[name]:.2f}") for name in _PARTS],
        "measured": f"accuracy {parts['accuracy_low']:.2f} to {parts['accuracy_high']:.2f} on "
        f"{parts['activating_texts']} + {parts['silent_texts']} texts; fires on {card['frequency']} of tokens",
        "keywords": ", ".join(card["keywords"]),
    }


def _engine(summary: Mapping[str, Any]) -> list[str]:
    return [
        summary["engine"],
        summary["model"],
        str(summary["explanations"]),
        str(summary["failed"]),
        f"{summary['quality_average']:.2f}",
        str(summary["prompt_tokens"] + summary["completion_tokens"]),
        f"{summary['cost_usd']:.4f}",
    ]
