"""Evidence about one feature, made by hand for the tests of prompts, explainers, judges and measures."""

from __future__ import annotations

import re
from typing import Any

from mistudio_explain.evidence import Driver, FeatureEvidence, JudgeText, TopText

STATISTICS = {"frequency": 0.001, "max": 5.0, "histogram_counts": [], "histogram_edges": []}


def top(text: str, active: str = "", strength: float = 5.0, **more: Any) -> TopText:
    """A text whose tokens are its words with the space before them; those that hold `active` fire."""
    tokens = tuple(re.findall(r"\s*(?:\w+|[^\w\s]|$)", text))
    activations = tuple(strength if active and active in t else 0.0 for t in tokens)
    given: dict[str, Any] = {"context": "", "position": 3, "document_tokens": len(tokens)}
    return TopText(text=text, tokens=tokens, activations=activations, **(given | more))


def driver(text: str, share: float, lift: float = 1000.0) -> Driver:
    return Driver(text=text, share=share, lift=lift, is_word=text[:1].isalnum())


def judged(firing: list[str], silent: list[str], near: tuple[str, ...] = ()) -> tuple[JudgeText, ...]:
    return (
        *(JudgeText(text=t, activation=3.0, near=False) for t in firing),
        *(JudgeText(text=t, activation=0.0, near=False) for t in silent),
        *(JudgeText(text=t, activation=0.0, near=True) for t in near),
    )


def evidence(**given: Any) -> FeatureEvidence:
    """A feature that fires on the word `harbour`, unless told otherwise."""
    fields: dict[str, Any] = {
        "feature_id": 7,
        "coherence": 0.7,
        "quality_level": "good",
        "category": "general",
        "complexity": "low",
        "keywords": ("harbour", "ship"),
        "driving": (driver("harbour", 0.8),),
        "top": tuple(top(f"The ship number {n} left the harbour at dawn.", "harbour") for n in range(6)),
        "contrast": ("The train left the station at noon.", "She sold flowers in the square."),
        "judge": judged(["A small harbour lay below."] * 3, ["A small village lay below."] * 3),
        "statistics": STATISTICS,
        "document_share": lambda word: 0.5 if word in ("the", "a", "at", "left") else 0.01,
    }
    return FeatureEvidence(**(fields | given))


def idf(word: str) -> float:
    """Every word is as rare."""
    return 2.0
