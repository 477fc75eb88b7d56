"""Slow, readable twins of the figures: float64 numpy, every token and feature on its own.

They follow docs/metrics.md word for word and share no code with the fast paths; tests compare the
two. Dense arrays: y_ND targets, y_hat_ND reconstructions, codes_NF, logits_TV of one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def sae_figures(y_ND: Array, y_hat_ND: Array, codes_NF: Array) -> dict[str, float | list[int]]:
    """Every figure of SaeMetrics that can be computed from dense arrays, by name."""
    y, y_hat, codes = (np.asarray(a, np.float64) for a in (y_ND, y_hat_ND, codes_NF))
    n_tokens, n_features = codes.shape
    fired = [sum(1 for value in codes[:, feature] if value > 0) for feature in range(n_features)]
    error = sum(float(np.dot(e, e)) for e in y - y_hat)
    mean = y.sum(axis=0) / n_tokens
    variance = sum(float(np.dot(c, c)) for c in y - mean)
    power = sum(float(np.dot(row, row)) for row in y)
    l1 = math.fsum(codes.reshape(-1).tolist()) / n_tokens
    return {
        "tokens": n_tokens,
        "fvu": error / variance,
        "explained_variance": 1 - error / variance,
        "explained_variance_uncentred": 1 - error / power,
        "cosine": sum(_cosine(a, b) for a, b in zip(y, y_hat, strict=True)) / n_tokens,
        "norm_ratio": _norm_ratio(y, y_hat),
        "l0": sum(fired) / n_tokens,
        "l1": l1,
        "dead_features": sum(1 for count in fired if count == 0),
        "active_features": sum(1 for count in fired if count > 0),
        "dense_features": sum(1 for count in fired if count / n_tokens > 0.1),
        "density": sum(fired) / n_tokens / n_features,
        "density_histogram": histogram(fired, n_tokens),
        "mean_activation": l1 / n_features,
    }


def histogram(fired: Sequence[int], tokens: int) -> list[int]:
    """Features a quarter of a decade of firing frequency, from 1e-7 to 1; dead ones in none."""
    bins = [0] * 28
    for count in fired:
        if count:
            place = math.floor((math.log10(count / tokens) + 7) * 4)
            bins[min(max(place, 0), 27)] += 1
    return bins


def _cosine(a: Array, b: Array) -> float:
    norms = math.sqrt(float(np.dot(a, a))) * math.sqrt(float(np.dot(b, b)))
    return float(np.dot(a, b)) / norms if norms else 0.0


def _norm_ratio(y: Array, y_hat: Array) -> float:
    ratios = [float(np.linalg.norm(b) / np.linalg.norm(a)) for a, b in zip(y, y_hat, strict=True) if a.any()]
    return sum(ratios) / len(ratios) if ratios else 0.0


def log_probabilities(logits_TV: Array) -> Array:
    """Log of the softmax of each row."""
    rows = []
    for row in np.asarray(logits_TV, np.float64):
        largest = row.max()
        rows.append(row - largest - math.log(float(np.exp(row - largest).sum())))
    return np.asarray(rows)


def cross_entropy(logits_TV: Array, ids: Sequence[int], counts: Sequence[bool]) -> list[float]:
    """-ln p(ids[t] | ids[:t]) in nats for each t from 1 on for which `counts[t]`, of one sequence."""
    log_p = log_probabilities(logits_TV)
    return [-float(log_p[t - 1, ids[t]]) for t in range(1, len(ids)) if counts[t]]


def kl_divergence(clean_TV: Array, spliced_TV: Array, counts: Sequence[bool]) -> list[float]:
    """KL(clean || spliced) in nats of the prediction of each t from 1 on for which `counts[t]`."""
    log_p, log_q = log_probabilities(clean_TV), log_probabilities(spliced_TV)
    p = np.exp(log_p)
    return [float((p[t - 1] * (log_p[t - 1] - log_q[t - 1])).sum()) for t in range(1, len(counts)) if counts[t]]


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """Share of the loss that the ablation costs and the reconstruction does not."""
    return (ablated - spliced) / (ablated - clean)


def useful_flops(tokens: int, d_in: int, d_out: int, d_sae: int, l0: float) -> float:
    """Multiplications and additions of training that no sparse implementation can leave out."""
    total = 0.0
    for _ in range(tokens):
        total += 2 * d_in * d_sae  # pre-activations
        total += 2 * d_out * l0  # reconstruction
        total += 2 * d_out * l0  # gradient of the codes
        total += 2 * d_out * l0  # gradient of the decoder
        total += 2 * d_in * l0  # gradient of the encoder
    return total
