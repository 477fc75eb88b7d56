"""How features go with what documents carry: every label, group and period, corrected for how many were tried.

Owns the statistics (docs/metrics.md), which the compiled loop of passes/labels.py counts. Kept a
feature: the strongest; false discoveries are corrected over all features and values of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from scipy.special import ndtr

from mistudio_find.corpus_index import Array
from mistudio_torch.codes import CodesReader
from mistudio_torch.codes.attributes import NO_TIME

KEPT = 20
"""Associations kept a feature."""
FEWEST_DOCUMENTS = 5
"""A value that fewer documents carry tells nothing."""
MOST_VALUES = 1000
"""Values of one column that are looked at: the commonest."""
_DAYS_OF_MONTHS = 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """The columns of a corpus: every label column, `group`, `period`; D documents."""

    columns: Sequence[tuple[str, Sequence[str], Array, Array]]
    """(name, values, int32 (D,) the value of each document, int64 documents with each); value 0 is none or rare."""

    def values(self) -> list[tuple[str, str, int]]:
        """(column, value, documents that carry it) of all, in the order of `Associations.value`."""
        return [
            (name, value, int(count))
            for name, values, _, counts in self.columns
            for value, count in zip(values, counts, strict=True)
        ]


def carried_by(codes: CodesReader) -> Carried:
    """What the documents of a corpus carry."""
    attributes, columns = codes.attributes, []
    for name in attributes.label_columns:
        values, ids = attributes.label_ids(name)
        columns.append(_common(name, values, np.asarray(ids)))
    if attributes.has_groups:
        numbers: dict[str, int] = {"": 0}
        ids = np.array([numbers.setdefault(attributes.group(d), len(numbers)) for d in range(codes.n_documents)])
        columns.append(_common("group", list(numbers), ids))
    if attributes.times is not None:
        columns.append(_common("period", *_periods(np.asarray(attributes.times))))
    return Carried(columns=[c for c in columns if len(c[1]) > 1])


def _common(name: str, values: Sequence[str], ids: Array) -> tuple[str, Sequence[str], Array, Array]:
    """A column whose rare values are 0, like no value."""
    counts = np.bincount(ids, minlength=len(values))
    counts[0] = 0
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    kept = np.sort(order[counts[order] >= FEWEST_DOCUMENTS])
    numbers = np.zeros(len(values), np.int32)
    numbers[kept] = 1 + np.arange(len(kept))
    return name, ["", *(values[k] for k in kept)], numbers[ids], np.concatenate([[0], counts[kept]])


def _periods(times: Array) -> tuple[Sequence[str], Array]:
    """Months, or days where all times lie within two months."""
    known = times[times != NO_TIME]
    seconds = (known.max() - known.min()) / 1e6 if len(known) else 0.0
    form = "%Y-%m-%d" if seconds < _DAYS_OF_MONTHS * 86_400 else "%Y-%m"
    days, owners = np.unique(np.where(times == NO_TIME, NO_TIME, times // 86_400_000_000), return_inverse=True)
    names = ["" if d == NO_TIME else datetime.fromtimestamp(int(d) * 86_400, UTC).strftime(form) for d in days]
    numbers: dict[str, int] = {"": 0}
    found = np.array([numbers.setdefault(n, len(numbers)) for n in names], np.int64)
    return list(numbers), found[owners]


@dataclass(frozen=True, kw_only=True, slots=True)
class Associations:
    """The strongest of each of F features; a place without one has value -1."""

    value: Array
    """int32 (F, KEPT): index into `Carried.values()`."""
    auroc: Array
    """float64 (F, KEPT)."""
    z: Array
    """float64 (F, KEPT): distance of the AUROC from 0.5 in standard errors."""
    lift: Array
    """float64 (F, KEPT): share of firing documents with the value over its share of all documents."""
    tested: int
    """Values that each feature is compared with."""

    @classmethod
    def empty(cls, features: int, carried: Carried) -> Associations:
        """Nothing yet."""
        tested = sum(len(values) - 1 for _, values, _, _ in carried.columns)
        kept = min(KEPT, tested)
        return cls(
            value=np.full((features, kept), -1, np.int32),
            auroc=np.zeros((features, kept)),
            z=np.zeros((features, kept)),
            lift=np.zeros((features, kept)),
            tested=tested,
        )

    def add(
        self,
        carried: Carried,
        rows: slice,
        offsets: Array,
        bits: Array,
        docs: Array,
        peaks: Array,
        peak: Array,
        parts: int,
    ) -> None:
        """Fills the rows of a chunk of C features; arrays as in passes/figures.py."""
        if not self.tested:
            return
        from mistudio_find.passes.labels import associate

        found = []
        for _, values, ids, counts in carried.columns:
            auroc, z = np.full((len(peaks), len(values)), 0.5), np.zeros((len(peaks), len(values)))
            fires = np.zeros((len(peaks), len(values)), np.int64)
            associate(offsets, bits, docs, peaks, peak, ids, counts, auroc, z, fires, parts)
            z[:, 0] = 0  # no value, or a rare one
            expected = np.maximum(1e-12, peaks.sum(axis=1, keepdims=True) * counts[None] / len(ids))
            found.append((auroc, z, fires / expected))
        auroc, z, lift = (np.concatenate(column, axis=1) for column in zip(*found, strict=True))
        best = np.argsort(-np.abs(z), axis=1, kind="stable")[:, : self.value.shape[1]]
        kept_z = np.take_along_axis(z, best, axis=1)
        self.value[rows] = np.where(kept_z != 0, best, -1)
        self.z[rows] = kept_z
        self.auroc[rows], self.lift[rows] = (np.take_along_axis(a, best, axis=1) for a in (auroc, lift))

    def q_values(self) -> Array:
        """float64 (F, KEPT): two-sided p-values corrected after Benjamini and Hochberg (1995).

        Over all F x `tested` comparisons with a live feature; those that were not kept rank behind the
        kept ones of their feature, so that the kept ones come out a little too large rather than too small.
        """
        flat = self.value.ravel() >= 0
        p = 2 * ndtr(-np.abs(self.z.ravel()[flat]))
        order = np.argsort(p, kind="stable")
        live = int((self.value[:, 0] >= 0).sum()) if self.value.shape[1] else 0
        steps = p[order] * (live * self.tested) / np.arange(1, len(p) + 1)
        corrected = np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1]) if len(p) else steps
        out = np.ones(self.value.size)
        places = np.flatnonzero(flat)
        out[places[order]] = corrected
        return out.reshape(self.value.shape)
