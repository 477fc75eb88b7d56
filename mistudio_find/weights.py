"""The decoder of an SAE in our store, read with numpy alone: norms, and which directions point the same way.

Owns reading and cosines, not what they mean. At most a few blocks of rows are in memory; F features,
D width of what the SAE writes. Layout of the files: mistudio_torch/formats/saelens.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mistudio_core.errors import Corrupt, Unsupported
from mistudio_find.corpus_index import Array
from mistudio_find.products import side_by_side
from mistudio_torch.codes.tensorfile import let_go, open_tensors

WEIGHTS_FILE, CONFIG_FILE = "sae_weights.safetensors", "cfg.json"
"""Files of the `sae` artifact."""
ROWS = 2048
"""Directions that are compared with as many others at a time: a block of cosines takes 16 MB."""


class PathGetter(Protocol):
    """What is needed of an artifact: `ArtifactReader` is one."""

    def path(self, name: str) -> Path:
        """Path of a file, verified."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Directions that the features of an SAE write."""

    rows_FD: Array
    """float32 (F, D), memory-mapped: a feature's direction for one unit of activation."""
    norms_F: Array
    """float64 (F,): lengths of the rows."""
    model_name: str
    """The model that it belongs to; empty where its files do not say."""
    hook_in: str
    """The hook that it reads; empty where its files do not say."""
    hook_out: str
    """The hook that it writes: for all but transcoders the one that it reads."""

    @property
    def shape(self) -> tuple[int, int]:
        """(F, D)."""
        return int(self.rows_FD.shape[0]), int(self.rows_FD.shape[1])

    def blocks(self, rows: int = ROWS) -> Iterator[tuple[int, int]]:
        """(first, last) of ranges of rows."""
        for first in range(0, len(self.rows_FD), rows):
            yield first, min(first + rows, len(self.rows_FD))

    def unit(self, first: int, last: int) -> Array:
        """float32 (last - first, D): rows of length 1; zeros for a row of zeros."""
        found = self.read(first, last)
        norms = self.norms_F[first:last, None]
        return (found / np.where(norms > 0, norms, 1)).astype(np.float32)

    def read(self, first: int, last: int) -> Array:
        """float32 (last - first, D): rows as they are, in memory of their own."""
        found = np.array(self.rows_FD[first:last])
        let_go(self.rows_FD)
        return found


def open_decoder(artifact: PathGetter) -> Decoder:
    """The decoder in an `sae` artifact. Raises Corrupt for damage, Unsupported for what is not in our layout."""
    raw, path = artifact.path(CONFIG_FILE).read_bytes(), artifact.path(WEIGHTS_FILE)
    try:
        config = json.loads(raw)
        about = config.get("metadata") or {}
        rows_FD = open_tensors(path)["W_dec"]
    except (Corrupt, ValueError, KeyError, AttributeError) as error:
        raise Corrupt("The decoder of the SAE cannot be read. Run its job again.") from error
    if config.get("rescale_acts_by_decoder_norm") or config.get("normalize_activations", "none") != "none":
        raise Unsupported(
            "reading the decoder of this SAE",
            why="its activations are scaled before they reach it",
            instead="Import it first: `mistudio sae import`.",
        )
    if rows_FD.ndim != 2 or rows_FD.dtype != np.float32 or not rows_FD.size:
        raise Corrupt("The SAE's decoder is no matrix of float32. Run its job again.")
    reads = str(about.get("hook_name") or "")
    writes = str(about.get("hook_name_out") or "") or ("" if "transcoder" in config.get("architecture", "") else reads)
    return Decoder(
        rows_FD=rows_FD,
        norms_F=_norms(rows_FD),
        model_name=str(about.get("model_name") or ""),
        hook_in=reads,
        hook_out=writes,
    )


def _norms(rows_FD: Array) -> Array:
    """Lengths of the rows. Raises Corrupt where one is not finite."""
    norms_F = np.empty(len(rows_FD), np.float64)
    for first in range(0, len(rows_FD), ROWS):
        part = np.array(rows_FD[first : first + ROWS])
        norms_F[first : first + ROWS] = np.sqrt(np.einsum("fd,fd->f", part, part, dtype=np.float64))
        let_go(rows_FD)
    if not np.isfinite(norms_F).all():
        raise Corrupt("The SAE's decoder has values that are no numbers. Run its job again.")
    return norms_F


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """The others that are most alike each feature, K a feature, most alike first."""

    ids_FK: Array
    """int32 (F, K): their indices; -1 where there are no more."""
    values_FK: Array
    """float32 (F, K): how alike they are."""

    @staticmethod
    def none(features: int, most: int) -> Nearest:
        """No others yet."""
        return Nearest(
            ids_FK=np.full((features, most), -1, np.int32), values_FK=np.full((features, most), -2.0, np.float32)
        )

    def first(self, most: int) -> Nearest:
        """The first ones alone."""
        return Nearest(ids_FK=self.ids_FK[:, :most].copy(), values_FK=self.values_FK[:, :most].copy())


def nearest_directions(decoder: Decoder, most: int, tick: Callable[[float], None], *, parts: int = 1) -> Nearest:
    """The other directions with the largest cosines, the lower index first of equals; exact.

    Every pair of blocks is multiplied once, `parts` at a time. Directions of length 0 have none and are none.
    """
    from mistudio_find.passes.nearest import keep_largest

    def cosines(pair: tuple[tuple[int, int], tuple[int, int]]) -> Array:
        ours, theirs = pair
        ours_RD = decoder.unit(*ours)
        theirs_CD = ours_RD if ours == theirs else decoder.unit(*theirs)
        return _hidden(ours_RD @ theirs_CD.T, decoder.norms_F[slice(*ours)], decoder.norms_F[slice(*theirs)])

    found = Nearest.none(len(decoder.rows_FD), most)
    blocks = list(decoder.blocks())
    pairs = [(ours, theirs) for number, ours in enumerate(blocks) for theirs in blocks[number:]]
    for done, (((first, last), (other, end)), cosines_RC) in enumerate(side_by_side(cosines, pairs, parts)):
        tick(done / len(pairs))
        rows = slice(first, last)
        keep_largest(cosines_RC, first, other, found.ids_FK[rows], found.values_FK[rows])
        if other != first:
            columns = slice(other, end)
            turned_CR = np.ascontiguousarray(cosines_RC.T)
            keep_largest(turned_CR, other, first, found.ids_FK[columns], found.values_FK[columns])
    return found


def nearest_across(
    one: Decoder, two: Decoder, most: int, tick: Callable[[float], None] = lambda _: None
) -> tuple[Nearest, Nearest]:
    """For each direction of one SAE those of the other with the largest cosines, and the other way round."""
    from mistudio_find.passes.nearest import keep_largest

    to_two, to_one = Nearest.none(len(one.rows_FD), most), Nearest.none(len(two.rows_FD), most)
    blocks = list(two.blocks())
    pairs, done = len(list(one.blocks())) * len(blocks), 0
    nobody = -max(len(one.rows_FD), len(two.rows_FD))  # a row of one SAE is never a column of the other
    for first, last in one.blocks():
        ours_RD = one.unit(first, last)
        for other, end in blocks:
            tick(done / pairs)
            done += 1
            cosines_RC = _hidden(ours_RD @ two.unit(other, end).T, one.norms_F[first:last], two.norms_F[other:end])
            rows, columns = slice(first, last), slice(other, end)
            keep_largest(cosines_RC, nobody, other, to_two.ids_FK[rows], to_two.values_FK[rows])
            turned_CR = np.ascontiguousarray(cosines_RC.T)
            keep_largest(turned_CR, nobody, first, to_one.ids_FK[columns], to_one.values_FK[columns])
    return to_two, to_one


def _hidden(cosines_RC: Array, norms_R: Array, norms_C: Array) -> Array:
    """Cosines, with -3 where a direction has no length: less than anything that is kept."""
    np.clip(cosines_RC, -1, 1, out=cosines_RC)
    cosines_RC[norms_R == 0] = -3
    cosines_RC[:, norms_C == 0] = -3
    return cosines_RC


def shared_space(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Why the decoders of two SAEs cannot be compared, in words; empty where they can.

    Both say `model_name`, `hook_in`, `hook_out` and `width`: directions mean the same only in one place of one model.
    """
    asked = ("model_name", "models"), ("hook_in", "hooks to read"), ("hook_out", "hooks to write"), ("width", "widths")
    for key, what in asked:
        if not one.get(key) or not two.get(key):
            return f"their {what} are not known"
        if one[key] != two[key]:
            return f"they have different {what}: {one[key]} and {two[key]}"
    return ""
