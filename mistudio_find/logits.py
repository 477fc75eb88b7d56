"""Which tokens' logits a feature raises and lowers most, by the direct path from its decoder to the head.

The logit lens (nostalgebraist 2020) on decoder directions: head times the last norm's scale times the
direction, the mean over the vocabulary taken off. What later blocks do to a direction is not in it, nor
the division by the size of the stream. V vocabulary, F features, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.products import side_by_side
from mistudio_find.render import clean, number
from mistudio_find.unembedding import Unembedding, token_texts
from mistudio_find.weights import Decoder

KEPT = 10
"""Tokens kept a feature, on each side."""
_TOKENS = 4096
_MOST_TEXT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Logits:
    """The ends of each feature's effects."""

    top_FK: Array
    """int32 (F, KEPT): ids of the tokens that it raises most; -1 where there are no more."""
    raised_FK: Array
    """float32 (F, KEPT): by how much."""
    low_FK: Array
    """int32 (F, KEPT): ids of the tokens that it lowers most."""
    lowered_FK: Array
    """float32 (F, KEPT): by how much, with the sign turned."""
    texts: dict[int, str]
    """Text of each token that stands in these."""

    def of(self, feature: int) -> dict[str, list[dict[str, Any]]]:
        """`promoted_tokens` and `suppressed_tokens` of a feature, see mistudio.feature.v1.LogitEffect."""
        sides = (self.top_FK, self.raised_FK, 1.0), (self.low_FK, self.lowered_FK, -1.0)
        found = [
            [
                {"token": self.texts[token], "token_id": token, "effect": number(sign * effect)}
                for token, effect in zip(ids[feature].tolist(), values[feature].tolist(), strict=True)
                if token >= 0
            ]
            for ids, values, sign in sides
        ]
        return {"promoted_tokens": found[0], "suppressed_tokens": found[1]}


def logit_effects(decoder: Decoder, head: Unembedding, tick: Callable[[float], None], *, parts: int = 1) -> Logits:
    """The effects of all features, a block of tokens times `parts` blocks of features at a time.

    Rows of the head behind the tokenizer's last token or between its tokens belong to none and are left out.
    """
    from mistudio_find.passes.nearest import keep_both_ends

    texts = dict(token_texts(head.tokenizer))
    ids = np.array(sorted(token for token in texts if token < head.shape[0]), np.int32)
    count = len(decoder.rows_FD)
    top, low = np.full((count, KEPT), -1, np.int32), np.full((count, KEPT), -1, np.int32)
    raised, lowered = (np.full((count, KEPT), -np.inf, np.float32) for _ in range(2))
    mean_D = _mean(head, ids)
    for start in range(0, len(ids), _TOKENS):
        block = ids[start : start + _TOKENS]
        rows_VD = head.rows(int(block[0]), int(block[-1]) + 1)[block - block[0]] - mean_D

        def effects(rows: tuple[int, int], rows_VD: Array = rows_VD) -> Array:
            return np.asarray(decoder.read(*rows) @ rows_VD.T)

        for (first, last), effects_RV in side_by_side(effects, decoder.blocks(), parts):
            tick((start + (last / count) * len(block)) / len(ids))
            rows = slice(first, last)
            keep_both_ends(effects_RV, block, top[rows], raised[rows], low[rows], lowered[rows])
    kept = np.union1d(top, low).tolist()
    shown = {token: clean(texts[token])[:_MOST_TEXT] for token in kept if token >= 0}
    return Logits(top_FK=top, raised_FK=raised, low_FK=low, lowered_FK=lowered, texts=shown)


def _mean(head: Unembedding, ids: Array) -> Array:
    """float32 (D,): the mean of the head's rows over the tokens."""
    total_D = np.zeros(head.shape[1], np.float64)
    for start in range(0, len(ids), _TOKENS):
        block = ids[start : start + _TOKENS]
        total_D += head.rows(int(block[0]), int(block[-1]) + 1)[block - block[0]].sum(axis=0, dtype=np.float64)
    return (total_D / max(1, len(ids))).astype(np.float32)
