"""Figures and highlighted texts as numbers and pieces; how they are drawn stands in the templates.

Charts are columns in a box of 250 x 78; both the page and the PDF draw the same ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_explain.reports.words import plain

LEVELS = 9
"""Strengths of the colour under a token."""
WIDTH, HEIGHT = 250.0, 78.0
_TALLEST = 74.0
_CONTEXT = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column."""

    x: float
    """Left."""
    y: float
    """Top."""
    width: float
    """Width."""
    height: float
    """Height."""
    title: str
    """What it stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A row of columns."""

    columns: tuple[Column, ...]
    """Those that are not empty."""
    low: str
    """Label on the left."""
    high: str
    """Label on the right."""


def _chart(values: Sequence[float], titles: Sequence[str], low: str, high: str) -> Chart:
    most, width = max(values, default=0) or 1, WIDTH / max(1, len(values))
    columns = tuple(
        Column(
            x=round(i * width + 1, 1),
            y=round(HEIGHT - _TALLEST * v / most, 1),
            width=round(width - 2, 1),
            height=round(_TALLEST * v / most, 1),
            title=titles[i],
        )
        for i, v in enumerate(values)
        if v > 0
    )
    return Chart(columns=columns, low=low, high=high)


def histogram(evidence: Mapping[str, Any]) -> Chart:
    """Activations of a feature, logarithmic counts."""
    counts, edges = evidence.get("histogram_counts", ()), evidence.get("histogram_edges", ())
    titles = [f"{c} tokens, activation {a:.3g} to {b:.3g}" for c, a, b in zip(counts, edges, edges[1:], strict=False)]
    high = f"activation {edges[-1]:.3g}" if edges else ""
    return _chart([math.log1p(c) for c in counts[: len(titles)]], titles, "0 (log scale)", high)


def shares(name: str, values: Sequence[float]) -> Chart:
    """How many of some values of 0 to 1 stand in which tenth."""
    tenths = Counter(min(9, int(10 * value)) for value in values)
    counts = [tenths.get(i, 0) for i in range(10)]
    titles = [f"{name} {i / 10:.1f} to {(i + 1) / 10:.1f}: {c}" for i, c in enumerate(counts)]
    return _chart(counts, titles, "0", "1")


def counts(names: Sequence[str], values: Sequence[str]) -> list[tuple[str, int]]:
    """(name, how many) in the order of the names; others behind them."""
    found = Counter(values)
    return [(n, found[n]) for n in (*names, *sorted(set(found) - set(names))) if found[n] or n in names]


def highlighted(text: Mapping[str, Any]) -> dict[str, Any]:
    """Pieces of a text with their level 0..9; silent neighbours are one piece."""
    activations = text["activations"]
    most = max(activations, default=0.0)
    pieces: list[tuple[str, int]] = []
    for token, activation in zip(text["tokens"], activations, strict=False):
        level = math.ceil(LEVELS * activation / most) if most > 0 and activation > 0 else 0
        lead = token[: len(token) - len(token.lstrip())] if level else ""
        # The space before a token is not part of what it fires on.
        for piece, strength in ((lead, 0), (token[len(lead) :], min(level, LEVELS))):
            if pieces and not strength and not pieces[-1][1]:
                pieces[-1] = (pieces[-1][0] + piece, 0)
            elif piece:
                pieces.append((piece, strength))
    return {
        "pieces": [(plain(p), level) for p, level in pieces],
        "context": plain(text["context"])[:_CONTEXT],
        "strength": f"{most:.3g}",
    }
