"""The rows of a comparison on disk, and what of a feature stands in them: written once, read a page at a time.

Columns of numbers in one safetensors file, memory-mapped; rows are matches, best first, then features that
appeared, then those that vanished, most coherent first. Owns the layout and what counts as a change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import Corrupt
from mistudio_find.corpus_index import Array
from mistudio_find.fields import SCALARS
from mistudio_find.matching import Matches
from mistudio_find.pages import FeaturePages, PathGetter
from mistudio_find.table import TABLE_FILE
from mistudio_torch.codes.tensorfile import create, open_tensors

ROWS_FILE = "rows.safetensors"
"""Name of the file in the artifact of a comparison."""
MATCHED, APPEARED, VANISHED = range(3)
"""Kinds of rows."""
CHANGES = ("coherence", "frequency", "category", "tier")
"""Short names of mistudio.find.v1.FeatureChange; a row's bits in this order."""
COHERENCE_CHANGE, FREQUENCY_CHANGE = 0.1, 2.0
"""A coherence that differs by more, and a frequency by more than this factor, has changed."""
_FIELDS = (
    "feature_id",
    "coherence_score",
    "quality_level",
    "pattern_category",
    "activation_statistics.frequency",
    "dead",
)
_COLUMNS = {
    "kind": "uint8",
    "one": "int32",
    "two": "int32",
    "similarity": "float32",
    "mutual": "uint8",
    "changes": "uint8",
    **{f"{side}_{name}": dtype for side in ("one", "two") for name, dtype in
       (("coherence", "float32"), ("frequency", "float32"), ("tier", "uint8"), ("category", "uint8"))},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Brief:
    """What is compared of each feature of an analysis, by index; F features."""

    sae_sha256: str
    """Its SAE."""
    live: Array
    """bool (F,): whether it fires."""
    coherence: Array
    """float32 (F,)."""
    frequency: Array
    """float32 (F,): share of tokens on which it fires."""
    tier: Array
    """uint8 (F,): place in the contract's values."""
    category: Array
    """uint8 (F,): place in the contract's values."""

    @staticmethod
    def read(features: PathGetter) -> Brief:
        """From the query table of a `features` artifact, or its records where it has none. Raises Corrupt."""
        pages = FeaturePages(features)
        sae = str(pages.page(0, 1)[0].get("sae_sha256", "")) if pages.total else ""
        try:
            path = features.path(TABLE_FILE)
        except (Corrupt, OSError):
            rows = _rows_of(pages)
        else:
            rows = _rows_in(path if path.is_file() else None, pages)
        table = np.zeros((pages.total, len(_FIELDS)))
        for row in rows:
            table[int(row[0])] = [float(value or 0) for value in row]
        return Brief(
            sae_sha256=sae,
            live=table[:, 5] == 0,
            coherence=table[:, 1].astype(np.float32),
            frequency=table[:, 4].astype(np.float32),
            tier=table[:, 2].astype(np.uint8),
            category=table[:, 3].astype(np.uint8),
        )

    def take(self, ids: Array) -> dict[str, Array]:
        """The columns of some features; zeros for an index below 0."""
        there = ids >= 0
        names = ("coherence", "frequency", "tier", "category")
        return {name: np.where(there, getattr(self, name)[ids] if len(self.live) else 0, 0) for name in names}


def _rows_in(path: Path | None, pages: FeaturePages) -> Iterable[tuple[Any, ...]]:
    if path is None:
        return _rows_of(pages)
    names = ", ".join(SCALARS[name].column for name in _FIELDS)
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return connection.execute(f"SELECT {names} FROM features").fetchall()  # noqa: S608  (names of fields.py)
    except sqlite3.DatabaseError as error:
        raise Corrupt("The query table of the analysis cannot be read. Run the Find job again.") from error
    finally:
        connection.close()


def _rows_of(pages: FeaturePages) -> Iterable[tuple[Any, ...]]:
    for record in pages.records(range(pages.total)):
        yield tuple(SCALARS[name].stored(record) for name in _FIELDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """How many rows of which kind there are."""

    appeared: int
    """Live features of the other analysis alone."""
    vanished: int
    """Live features of the first analysis alone."""
    changed: int
    """Matches with any change."""
    changes: dict[str, int]
    """Matches a change, by CHANGES."""


def write_rows(path: Path, matches: Matches, one: Brief, two: Brief) -> Written:
    """Writes all rows. OSError passes."""
    gone, new = _alone(one, matches.one), _alone(two, matches.two)
    none_new, none_gone = np.full(len(new), -1, np.int32), np.full(len(gone), -1, np.int32)
    lone = np.concatenate([matches.best_two[new], matches.best_one[gone]])
    columns: dict[str, Array] = {
        "kind": np.repeat([MATCHED, APPEARED, VANISHED], [len(matches.one), len(new), len(gone)]),
        "one": np.concatenate([matches.one, none_new, gone]),
        "two": np.concatenate([matches.two, new, none_gone]),
        "similarity": np.concatenate([matches.similarity, lone]),
        "mutual": np.concatenate([matches.mutual, np.zeros(len(lone), bool)]),
    }
    own, other = one.take(columns["one"]), two.take(columns["two"])
    changes = np.where(columns["kind"] == MATCHED, _changes(own, other), 0)
    columns |= {
        "changes": changes,
        **{f"one_{k}": v for k, v in own.items()},
        **{f"two_{k}": v for k, v in other.items()},
    }
    file = create(path, {name: (dtype, (len(changes),)) for name, dtype in _COLUMNS.items()})
    for name in _COLUMNS:
        file[name][...] = columns[name]
    return Written(
        appeared=len(new),
        vanished=len(gone),
        changed=int((changes > 0).sum()),
        changes={name: int((changes >> bit & 1).sum()) for bit, name in enumerate(CHANGES)},
    )


def _alone(brief: Brief, matched: Array) -> Array:
    """int32: live features that are in no match, most coherent first."""
    alone = brief.live.copy()
    alone[matched] = False
    ids = np.flatnonzero(alone).astype(np.int32)
    return ids[np.argsort(-brief.coherence[ids], kind="stable")]


def _changes(own: Mapping[str, Array], other: Mapping[str, Array]) -> Array:
    """Bits by CHANGES."""
    low, high = np.minimum(own["frequency"], other["frequency"]), np.maximum(own["frequency"], other["frequency"])
    found = (
        np.abs(own["coherence"].astype(np.float64) - other["coherence"]) > COHERENCE_CHANGE,
        high.astype(np.float64) > FREQUENCY_CHANGE * low.astype(np.float64),
        own["category"] != other["category"],
        own["tier"] != other["tier"],
    )
    bits = np.zeros(len(low), np.int64)
    for bit, changed in enumerate(found):
        bits |= changed.astype(np.int64) << bit
    return bits


class ComparisonRows:
    """Rows that were written, read in any order."""

    def __init__(self, path: Path) -> None:
        """Opens a file. Raises Corrupt."""
        self._columns = open_tensors(path)
        if set(self._columns) != set(_COLUMNS):
            raise Corrupt("The comparison cannot be read. Ask for it again.")

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self._columns["kind"])

    def rows(self, first: int, count: int) -> list[dict[str, Any]]:
        """Rows first..first + count - 1 as plain values, fewer at the end."""
        part = {name: column[first : first + count].tolist() for name, column in self._columns.items()}
        return [dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]
