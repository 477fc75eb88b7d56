"""Which features of two SAEs are the same ones: pairs by likeness, each feature in one pair at most.

Owns the rule: of all pairs whose likeness reaches the least allowed the most alike is taken, then of what is
left the next, the lower indices first of equals. A pair of which each is the other's most similar one is always
among them. F features of one, G of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.weights import Nearest

CANDIDATES = 10
"""Most similar features of each side that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Pairs, most alike first, and how near the others came."""

    one: Array
    """int32 (n,): features of one."""
    two: Array
    """int32 (n,): their partners."""
    similarity: Array
    """float32 (n,): how alike they are."""
    mutual: Array
    """bool (n,): whether each is the other's most similar one."""
    best_one: Array
    """float32 (F,): likeness of the most similar live feature of the other side; nan where there is none."""
    best_two: Array
    """float32 (G,): the same the other way round."""


def same_index(live_one: Array, live_two: Array) -> Matches:
    """Pairs of the same index that are live on both sides, for one SAE on two corpora."""
    both = np.flatnonzero(live_one & live_two).astype(np.int32)
    ones = np.ones(len(both), np.float32)
    nothing = np.full(len(live_one), np.nan, np.float32)
    return Matches(
        one=both, two=both, similarity=ones, mutual=ones.astype(bool), best_one=nothing, best_two=nothing.copy()
    )


def match(to_two: Nearest, to_one: Nearest, live_one: Array, live_two: Array, least: float) -> Matches:
    """Pairs of live features by the likeness that both sides found."""
    to_two, to_one = _among(to_two, live_one, live_two), _among(to_one, live_two, live_one)
    one, two, similarity = _pairs(to_two, to_one, least)
    order = np.lexsort((two, one, -similarity))
    taken_one, taken_two = np.zeros(len(live_one), bool), np.zeros(len(live_two), bool)
    kept = []
    for at, f, g in zip(order.tolist(), one[order].tolist(), two[order].tolist(), strict=True):
        if not (taken_one[f] or taken_two[g]):
            taken_one[f] = taken_two[g] = True
            kept.append(at)
    f, g = one[kept], two[kept]
    return Matches(
        one=f,
        two=g,
        similarity=similarity[kept],
        mutual=(to_two.ids_FK[f, 0] == g) & (to_one.ids_FK[g, 0] == f),
        best_one=np.where(to_two.ids_FK[:, 0] >= 0, to_two.values_FK[:, 0], np.nan).astype(np.float32),
        best_two=np.where(to_one.ids_FK[:, 0] >= 0, to_one.values_FK[:, 0], np.nan).astype(np.float32),
    )


def _among(nearest: Nearest, live_own: Array, live_other: Array) -> Nearest:
    """The same for live features alone, the kept ones moved to the front."""
    ids = nearest.ids_FK
    kept = (ids >= 0) & live_other[np.maximum(ids, 0)] & live_own[:, None]
    order = np.argsort(~kept, axis=1, kind="stable")
    kept = np.take_along_axis(kept, order, axis=1)
    return Nearest(
        ids_FK=np.where(kept, np.take_along_axis(ids, order, axis=1), -1).astype(np.int32),
        values_FK=np.take_along_axis(nearest.values_FK, order, axis=1),
    )


def _pairs(to_two: Nearest, to_one: Nearest, least: float) -> tuple[Array, Array, Array]:
    """(features of one, of two, likeness) of every pair that either side names and that is alike enough, once."""
    there, back = to_two.ids_FK >= 0, to_one.ids_FK >= 0
    one = np.concatenate([np.nonzero(there)[0], to_one.ids_FK[back]]).astype(np.int32)
    two = np.concatenate([to_two.ids_FK[there], np.nonzero(back)[0]]).astype(np.int32)
    similarity = np.concatenate([to_two.values_FK[there], to_one.values_FK[back]])
    enough = similarity >= np.float32(least)
    one, two, similarity = one[enough], two[enough], similarity[enough]
    keys = one.astype(np.int64) * max(1, len(to_one.ids_FK)) + two
    first = np.unique(keys, return_index=True)[1]
    return one[first], two[first], similarity[first]
