"""Codes artifacts of any size for Find's benchmarks: documents of invented words, features that follow them.

Words are drawn by Zipf's law within topics; each token fires k features: some that belong to its word,
some that belong to its document's topic, the rest by chance. A function of its arguments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistudio_torch.codes import CodesWriter

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "on", "us")]
_TOPICS, _WORDS, _LENGTH = 40, 8_000, 64


def words() -> list[str]:
    """The vocabulary: every word of two or three syllables, once."""
    base = len(_SYLLABLES)
    names = [_SYLLABLES[i // base] + _SYLLABLES[i % base] for i in range(_WORDS)]
    return [name + (_SYLLABLES[i % 7] if i % 3 == 0 else "") for i, name in enumerate(names)]


def write_codes(folder: Path, *, features: int, tokens: int, k: int, seed: int = 0) -> Path:
    """A codes artifact of `tokens` tokens in documents of 64, each firing k of the features."""
    rng = np.random.default_rng(seed)
    names = words()
    rank = 1.0 / np.arange(1, _WORDS + 1)
    meta = {"model_name": "benchmark", "layer": 0, "sae_sha256": "0" * 64, "corpus_sha256": "0" * 64}
    with CodesWriter(folder, d_sae=features, meta=meta) as writer:
        left = tokens
        while left > 0:
            n = min(_LENGTH, left)
            left -= n
            topic = int(rng.integers(_TOPICS))
            draws = np.searchsorted(np.cumsum(rank / rank.sum()), rng.random(n))
            ids = np.where(rng.random(n) < 0.4, (draws * _TOPICS + topic) % _WORDS, draws).clip(0, _WORDS - 1)
            chosen, values = _codes(ids, topic, features, k, rng)
            text = " ".join(names[i] for i in ids)
            ends = np.cumsum([len(names[i]) + 1 for i in ids]) - 1
            starts = np.concatenate([[0], ends[:-1] + 1])
            spans = np.stack([starts, ends], axis=1).astype(np.int32)
            writer.add_document(
                text,
                ids.astype(np.uint32),
                spans,
                np.repeat(np.arange(n), k),
                chosen.reshape(-1),
                values.reshape(-1),
                labels={"topic": f"t{topic}"},
            )
        writer.close()
    return folder


def _codes(
    ids: np.ndarray, topic: int, features: int, k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(features (n, k), all different in a row; activations (n, k))."""
    n = len(ids)
    of_word = (ids[:, None] * 7919 + np.arange(k // 4)[None] * 104_729) % features
    of_topic = (topic * 15_485_863 + np.arange(k // 4)[None] * 32_452_843 + np.zeros((n, 1), np.int64)) % features
    rest = rng.integers(features, size=(n, k - 2 * (k // 4)))
    chosen = np.concatenate([of_word, of_topic, rest], axis=1)
    # Equal ones in a row move on to the next free feature.
    order = np.sort(chosen, axis=1)
    steps = np.maximum.accumulate(order - np.arange(k), axis=1) + np.arange(k)
    over = np.maximum(0, steps[:, -1:] - (features - 1))
    chosen = np.maximum(0, steps - over) if k * 2 < features else np.argsort(rng.random((n, features)), axis=1)[:, :k]
    values = rng.gamma(2.0, 1.0, size=(n, k)) + 0.1
    return chosen, values
