"""What several forms say in the same words: clean texts, definitions, sentences about a run.

Sentences are made from counts of the book; nothing in them is an opinion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mistudio_explain.book import Book

CATEGORIES = ("technical", "conversational", "behavioral", "temporal", "general")
"""Kinds of patterns, in the order of reports."""
TIERS = ("excellent", "good", "fair", "poor")
"""Tiers of coherence."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
METRICS: tuple[tuple[str, str, str], ...] = (
    (
        "quality",
        "0.4 accuracy + 0.3 clarity + 0.2 consistency + 0.1 relevance",
        "A mean of four unlike things: read the parts before comparing two features.",
    ),
    (
        "accuracy",
        "AUROC: how often a held-out text on which the feature fires scores above one on which it is silent, judged "
        "from the explanation alone by the named method; 95 % bootstrap interval in brackets",
        "Measured on at most 20 texts a feature; 0.5 is chance; it says nothing about what the feature does in the "
        "model, only about the texts on which it fires.",
    ),
    ("clarity", "sentences, their length, the whole length, plain signs", "Form alone: a clear text may be wrong."),
    (
        "consistency",
        "whether it names the feature's keywords, has its words from the top texts, and fits the category",
        "Keywords come from the same texts that the explainer saw.",
    ),
    (
        "relevance",
        "share of top texts with its main words, less the share of silent texts",
        "Words alone; an explanation in other words than the texts scores low.",
    ),
    (
        "verification",
        "confirmed: accuracy of at least 0.75 with an interval above 0.5; contradicted: below 0.55; else partial",
        "A verdict on words and texts at hand, not on the model.",
    ),
    (
        "coherence",
        "share of top texts that one pattern is seen in, corrected for chance",
        "Sees only patterns that the corpus holds.",
    ),
    (
        "safety",
        "subjects of a list of rules in keywords, top texts and the explanation",
        "Finds words, not intent; a subject outside of the list is not seen. A person decides.",
    ),
    (
        "human accuracy",
        "share of reviewed explanations that a person approved as they stand",
        "Reviewed explanations are mostly flagged ones: not a sample of all.",
    ),
)
"""(name, definition, limits) of every measure."""


def plain(text: str) -> str:
    """Text without control and direction signs."""
    return _CONTROL.sub("\ufffd", text)


def verdict_line(review: Mapping[str, Any]) -> str:
    """A verdict as one sentence."""
    by = f" by {review['author']}" if review["author"] else ""
    said = f"Reviewed: {review['verdict']}{by} on {review['reviewed_at'][:10]}"
    told = f"{said}: {review['correction']}" if review["correction"] else f"{said}."
    return f"{told} Reason: {review['reason']}" if review["reason"] else told


def headline(book: Book) -> str:
    """Two sentences that say what came out."""
    done = [r for r in book.records if not r["failure"]]
    if not done:
        return "No feature was explained: none was clear enough, or the engine failed on all of them."
    confirmed = sum(r["pattern_verification"] == "confirmed" for r in done)
    concerns = book.summary["safety_concerns_identified"]
    safety = (
        f"{concerns} touch{'es' if concerns == 1 else ''} a subject that a safety team follows"
        if concerns
        else "none touches a safety subject"
    )
    return (
        f"Of {len(done)} explained features, held-out texts confirm {confirmed} ({confirmed / len(done):.0%}). "
        f"Of all features taken, {safety}."
    )


def insights(book: Book) -> list[str]:
    """Sentences about the run, each from counts."""
    done = [r for r in book.records if not r["failure"]]
    if not done:
        return ["There is nothing to say about no explanation."]
    verdicts = Counter(r["pattern_verification"] for r in done)
    kind, count = Counter(r["pattern_category"] for r in done).most_common(1)[0]
    relevance = Counter(r["business_relevance"] for r in done)
    lines = [
        f"{verdicts['confirmed']} explanations are confirmed, {verdicts['partial']} in part, "
        f"{verdicts['contradicted']} contradicted by held-out texts.",
        f"The commonest kind of pattern is {kind} ({count} features).",
        f"{relevance['high']} features are of high, {relevance['medium']} of medium business relevance.",
    ]
    near = [n for r in done if (n := r["quality_parts"]["accuracy_near"]) is not None]
    if near:
        mean = sum(near) / len(near)
        lines.append(f"Against silent texts of like topic, the harder test, mean accuracy is {mean:.2f}.")
    return [*lines, *_of_people(book.summary), *_of_costs(book.summary.get("costs"))]


def _of_people(summary: Mapping[str, Any]) -> list[str]:
    if not summary.get("reviewed"):
        waiting = summary["flagged"]
        return [f"Nobody has reviewed the run yet; {waiting} explanations wait for a person."] if waiting else []
    verdicts = summary["verdicts"]
    said = (
        f"People reviewed {summary['reviewed']} explanations: {verdicts['approved']} approved, "
        f"{verdicts['corrected']} corrected, {verdicts['rejected']} rejected; human accuracy "
        f"{summary['human_accuracy']:.2f}."
    )
    agreed = summary.get("human_agreement")
    return [said if agreed is None else f"{said} They agree with the automatic verification on {agreed:.0%} of them."]


def _of_costs(costs: Mapping[str, Any] | None) -> list[str]:
    if not costs or not (costs["openai_cost"] or costs["spent_usd"]):
        return []
    return [
        f"Energy cost ${costs['local_cost']:.4f} ({costs['energy_method'].replace('_', ' ')}), providers "
        f"${costs['spent_usd']:.4f}; the same tokens cost ${costs['openai_cost']:.4f} at OpenAI and "
        f"${costs['anthropic_cost']:.4f} at Anthropic by price table {costs['prices']}."
    ]
