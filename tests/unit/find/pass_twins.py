"""Readable twins of the compiled loops, one feature at a time, in plain Python and numpy."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from mistudio_find.evidence import CLEAR_SHARE, DRIVERS, OUTLIER_DEVIATIONS, OUTLIERS, STRONG
from mistudio_find.passes import BINS, TENTHS


def peaks_of(codes, index, feature):
    """(token, value) of each document's strongest token, strongest first, the earlier document first of equals."""
    found = codes.feature(feature)
    best: dict[int, tuple[int, float]] = {}
    for token, value in zip(found.positions.tolist(), found.values.tolist(), strict=True):
        doc = int(index.token_doc[token])
        if doc not in best or value > best[doc][1]:
            best[doc] = token, value
    return sorted(best.values(), key=lambda p: (-p[1], p[0]))


def figures(codes, index, feature):
    found = codes.feature(feature)
    values = found.values.astype(np.float64)
    n, largest = len(values), values.max(initial=0.0)
    away = values - (values.mean() if n else 0)
    starts = codes.doc_token_offsets
    tenths, first = [0] * TENTHS, 0.0
    for token, value in zip(found.positions.tolist(), values.tolist(), strict=True):
        start, end = starts[index.token_doc[token]], starts[index.token_doc[token] + 1]
        tenths[min(TENTHS - 1, int(np.float32(token - start) * np.float32(TENTHS / (end - start))))] += 1
        first += value if token == start else 0.0
    scale = BINS / largest if largest else 0.0
    return {
        "moments": [values.sum(), largest, (away**2).sum(), (away**3).sum()],
        "histogram": np.bincount(np.minimum((found.values * np.float32(scale)).astype(int), BINS - 1), minlength=BINS),
        "tenths": tenths,
        "first": first,
    }


def drivers(codes, index, feature):
    found = codes.feature(feature)
    mass, count = defaultdict(float), Counter()
    for token, value in zip(found.positions.tolist(), found.values.tolist(), strict=True):
        if not index.judge[index.token_doc[token]]:
            unit = int(index.token_unit[token])
            mass[unit] += value
            count[unit] += 1
    best = sorted(mass, key=lambda u: (-mass[u], u))[:DRIVERS]
    return [(u, count[u], mass[u]) for u in best]


def top(codes, index, feature, most):
    kept, seen = [], set()
    for token, _ in peaks_of(codes, index, feature):
        doc = index.token_doc[token]
        if index.judge[doc]:
            continue
        word = index.token_word[token]
        low, high = max(index.doc_words[doc], word - 5), min(index.doc_words[doc + 1], word + 6)
        around = tuple(index.word_ids[low:high].tolist())
        if around not in seen:
            seen.add(around)
            kept.append(token)
    return kept[:most]


def strong(codes, index, feature):
    return [t for t, _ in peaks_of(codes, index, feature) if not index.judge[index.token_doc[t]]][:STRONG]


def judged(codes, index, feature, count):
    ranked = peaks_of(codes, index, feature)
    largest = codes.feature(feature).values.max(initial=0.0)
    held = [(t, v) for t, v in ranked if index.judge[index.token_doc[t]]]
    clear = sum(v >= CLEAR_SHARE * largest for _, v in held)
    usable = held[: max(clear, count)]
    if len(usable) <= count:
        return [t for t, _ in usable]
    return [usable[i * (len(usable) - 1) // (count - 1)][0] for i in range(count)]


def outliers(codes, index, feature):
    ranked = [(t, v) for t, v in peaks_of(codes, index, feature) if not index.judge[index.token_doc[t]]]
    values = np.array([v for _, v in ranked])
    if len(values) < 8:
        return []
    middle = values[len(values) // 2]
    spread = 1.4826 * np.sort(np.abs(values - middle))[len(values) // 2]
    if spread <= 0:
        return []
    far = [(t, (v - middle) / spread) for t, v in ranked[:OUTLIERS]]
    return [(t, d) for t, d in far if d >= OUTLIER_DEVIATIONS]


def auroc(codes, index, feature, having):
    """Share of pairs (with, without) in which the first peak is higher, ties half."""
    best = np.zeros(len(having))
    for token, value in peaks_of(codes, index, feature):
        best[index.token_doc[token]] = value
    pairs = best[having][:, None] - best[~having][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
