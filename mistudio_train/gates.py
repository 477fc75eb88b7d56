"""Verdicts on a trained SAE: pass or warn, each with a remedy that fits its architecture.

Judged from figures alone; docs/metrics.md has the definitions. A gate that does not pass is no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_train.plan_parts import TOP_K_FAMILY

LEAST_EXPLAINED = 0.95
LEAST_RATE, MOST_RATE = 0.01, 0.05
MOST_CHANGE = 0.05
MOST_DEAD = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityGate:
    """One gate and its verdict."""

    name: str
    """`reconstruction`, `activation_rate`, `convergence`, `dead_features`."""
    value: float
    """Measured figure."""
    threshold: str
    """What passes, in words."""
    passed: bool
    """Whether it passes; where not, it is a warning."""
    remedy: str
    """What to do where it does not pass; empty where it does."""


def quality_gates(
    *,
    architecture: str,
    hidden_dim: int,
    explained_variance: float,
    density: float,
    dead_share: float,
    losses: Sequence[float],
) -> tuple[QualityGate, ...]:
    """The four gates.

    `density` is L0 / hidden_dim; `losses` are mean losses of consecutive equal stretches of the run, of which
    the last two are compared: their relative change is 1 where there are fewer.
    """
    change = (losses[-2] - losses[-1]) / max(losses[-2], 1e-12) if len(losses) > 1 else 1.0
    return (
        _gate(
            "reconstruction",
            explained_variance,
            "explained variance (1 - FVU, mean-centred, held-out) of at least 0.95",
            explained_variance >= LEAST_EXPLAINED,
            _reconstruction_remedy(architecture),
        ),
        _gate(
            "activation_rate",
            density,
            "1 % to 5 % of the features fire on a token (L0 / hidden_dim, held-out)",
            LEAST_RATE <= density <= MOST_RATE,
            _rate_remedy(architecture, hidden_dim, density),
        ),
        _gate(
            "convergence",
            change,
            "mean loss of the last stretch of the run within 5 % of the one before",
            abs(change) <= MOST_CHANGE,
            _convergence_remedy(change, len(losses)),
        ),
        _gate(
            "dead_features",
            dead_share,
            "at most 10 % of the features never fire on held-out text",
            dead_share <= MOST_DEAD,
            _dead_remedy(architecture),
        ),
    )


def _gate(name: str, value: float, threshold: str, passed: bool, remedy: str) -> QualityGate:
    return QualityGate(name=name, value=value, threshold=threshold, passed=passed, remedy="" if passed else remedy)


def _reconstruction_remedy(architecture: str) -> str:
    more = "raise k" if architecture in TOP_K_FAMILY else "lower sparsity_coeff"
    return f"Train on more tokens (token_budget, max_epochs), {more}, or raise hidden_dim."


def _rate_remedy(architecture: str, hidden_dim: int, density: float) -> str:
    """Which way to go, with the values that would do where they can be computed."""
    few = density < LEAST_RATE
    if architecture not in TOP_K_FAMILY:
        change = "Lower" if few else "Raise"
        return f"{change} sparsity_coeff: its features fire too {'seldom' if few else 'often'}."
    l0 = density * hidden_dim
    k = f"{max(1, math.ceil(LEAST_RATE * hidden_dim))} to {max(1, math.floor(MOST_RATE * hidden_dim))}"
    widths = f"{math.ceil(l0 / MOST_RATE)} to {math.floor(l0 / LEAST_RATE)}"
    if few:
        return f"Raise k to {k}, or lower hidden_dim to {widths}; a wide SAE with a small k may be what you want."
    return f"Lower k to {k}, or raise hidden_dim to {widths}."


def _convergence_remedy(change: float, stretches: int) -> str:
    if stretches < 2:
        return "The run is too short to tell. Raise token_budget or max_epochs."
    if change > 0:
        return "The loss was still falling. Raise token_budget or max_epochs."
    return "The loss was rising. Lower learning_rate."


def _dead_remedy(architecture: str) -> str:
    more = "raise k" if architecture in TOP_K_FAMILY else "lower sparsity_coeff"
    return f"Lower hidden_dim or learning_rate, {more}, or train on more tokens or a larger corpus."
