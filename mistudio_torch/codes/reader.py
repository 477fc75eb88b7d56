"""Reads a codes artifact memory-mapped: a feature's activations, and the documents around them.

Owns lookups, not statistics. Memory use is what a caller asks for at a time. Digests are verified
by the artifact reader's `path()`; what is internally inconsistent raises Corrupt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import Corrupt, Unsupported
from mistudio_torch.codes.attributes import Attributes, PathGetter
from mistudio_torch.codes.tensorfile import Array, let_go, open_tensors
from mistudio_torch.codes.writer import FORMAT_VERSION, shard_name


class _Folder:
    """A bare folder as an artifact, unverified."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / name


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCodes:
    """Where one feature fires and how strongly."""

    positions: Array
    """int64 (n,), global token indices, ascending."""
    values: Array
    """float32 (n,), activations, positive."""


class CodesReader:
    """A codes artifact opened for reading.

    Global token indices run over all documents in order; special tokens are not among them.
    """

    def __init__(self, artifact: PathGetter) -> None:
        """Opens `artifact`. Raises Corrupt; Unsupported for a layout of another version."""
        self.meta: dict[str, Any] = _json(artifact.path("meta.json"))
        if self.meta.get("format_version") != FORMAT_VERSION:
            raise Unsupported(
                "this codes artifact",
                why=f"its format is not version {FORMAT_VERSION}",
                instead="Run its training job again.",
            )
        offsets = open_tensors(artifact.path("offsets.safetensors"))
        documents = open_tensors(artifact.path("documents.safetensors"))
        try:
            self._feature_offsets = np.asarray(offsets["feature_offsets"])
            self._shard_starts = np.array(self.meta["shards"], np.int64)
            self._doc_token_offsets = np.asarray(documents["doc_token_offsets"])
            self._text_offsets = np.asarray(documents["text_offsets"])
            self._spans, self._token_ids = documents["spans"], documents["token_ids"]
            self._heldout = np.asarray(documents["heldout"])
        except (KeyError, ValueError) as error:
            raise Corrupt(f"The codes artifact lacks {error}. Run its training job again.") from error
        self.attributes = Attributes(artifact, self.meta, documents)
        """Labels, group and time of each document."""
        self._texts_path = artifact.path("texts.bin")
        self._artifact = artifact
        self._shards: dict[int, tuple[Array, Array]] = {}
        size = self._texts_path.stat().st_size
        self._texts = np.memmap(self._texts_path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self._check()

    @classmethod
    def from_folder(cls, folder: Path) -> CodesReader:
        """Opens a bare folder, without digests: for tests and notebooks."""
        return cls(_Folder(folder))

    @property
    def d_sae(self) -> int:
        """Number of features F."""
        return len(self._feature_offsets) - 1

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all documents, special tokens excluded."""
        return len(self._token_ids)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self._heldout)

    @property
    def n_nonzero(self) -> int:
        """Number of (token, feature) pairs that fire."""
        return int(self._feature_offsets[-1])

    def feature(self, index: int) -> FeatureCodes:
        """Every activation of feature `index` (0..d_sae-1). Raises IndexError outside of it."""
        if not 0 <= index < self.d_sae:
            raise IndexError(f"feature {index} is outside of 0..{self.d_sae - 1}")
        positions, values = self._columns(index, index + 1)
        return FeatureCodes(positions=positions.astype(np.int64), values=values.astype(np.float32))

    def part(self, first: int, last: int) -> tuple[Array, Array, Array]:
        """Features first..last-1 together: (int64 (last - first + 1,) offsets, int64 positions, uint16 values).

        The values are the bits of float16 numbers. Memory is theirs alone; see `release`.
        """
        offsets = self._feature_offsets[first : last + 1]
        positions, values = self._columns(first, last)
        return offsets - offsets[0], positions.astype(np.int64), values.view(np.uint16)

    def ranges(self, activations: int, features: int) -> Iterator[tuple[int, int]]:
        """Ranges of features of at most so many activations, one feature alone perhaps more, and so many features."""
        first = 0
        while first < self.d_sae:
            bound = int(self._feature_offsets[first]) + activations
            last = int(np.searchsorted(self._feature_offsets, bound, side="right")) - 1
            last = min(max(last, first + 1), first + features, self.d_sae)
            yield first, last
            first = last

    @property
    def token_column(self) -> Array:
        """uint32 (T,): the id of every token in the model's vocabulary, memory-mapped."""
        return np.asarray(self._token_ids)

    @property
    def doc_token_offsets(self) -> Array:
        """int64 (D + 1,): first token of each document, and T."""
        return self._doc_token_offsets

    def release(self) -> None:
        """Lets go of what the memory maps have read, so that a pass over all of it stays small."""
        for mapped in (
            self._token_ids,
            self._spans,
            self._texts,
            *(m for shard in self._shards.values() for m in shard),
        ):
            let_go(mapped)

    def frequency(self) -> Array:
        """int64 (F,): number of tokens on which each feature fires."""
        return np.diff(self._feature_offsets)

    def document_of(self, positions: Array) -> Array:
        """int64 (n,): the document that holds each global token index."""
        return np.searchsorted(self._doc_token_offsets, positions, side="right").astype(np.int64) - 1

    def doc_tokens(self, doc: int) -> tuple[int, int]:
        """(start, end) of the document's tokens among the global token indices."""
        return int(self._doc_token_offsets[doc]), int(self._doc_token_offsets[doc + 1])

    def text(self, doc: int) -> str:
        """The document's text."""
        return self._texts[self._text_offsets[doc] : self._text_offsets[doc + 1]].tobytes().decode("utf-8", "replace")

    def spans(self, doc: int) -> Array:
        """int32 (n, 2): each token's character start and end in `text(doc)`."""
        return np.array(self._spans[slice(*self.doc_tokens(doc))])

    def token_ids(self, doc: int) -> Array:
        """uint32 (n,): each token's id in the model's vocabulary."""
        return np.array(self._token_ids[slice(*self.doc_tokens(doc))])

    def label(self, doc: int) -> str:
        """The document's labels in words; empty where it has none."""
        return self.attributes.label(doc)

    def heldout(self, doc: int) -> bool:
        """Whether the document was held out from training."""
        return bool(self._heldout[doc])

    def _columns(self, first: int, last: int) -> tuple[Array, Array]:
        """Positions and float16 values of features first..last-1, from however many shards. Raises Corrupt."""
        low, high = int(self._feature_offsets[first]), int(self._feature_offsets[last])
        if low == high:
            return np.zeros(0, np.int64), np.zeros(0, np.float16)
        shard = int(np.searchsorted(self._shard_starts, first, side="right")) - 1
        positions, values = [], []
        while low < high:
            mapped = self._shard(shard)
            base, end = self._bounds(shard)
            part = slice(low - base, min(high, end) - base)
            positions.append(np.asarray(mapped[0][part]))
            values.append(np.asarray(mapped[1][part]))
            low, shard = min(high, end), shard + 1
        return (positions[0], values[0]) if len(positions) == 1 else (np.concatenate(positions), np.concatenate(values))

    def _bounds(self, shard: int) -> tuple[int, int]:
        """Where the activations of a shard begin and end among all."""
        starts = [*self._shard_starts.tolist(), self.d_sae]
        return int(self._feature_offsets[starts[shard]]), int(self._feature_offsets[starts[shard + 1]])

    def _shard(self, number: int) -> tuple[Array, Array]:
        """The mapped columns of a shard, verified when first opened."""
        if number not in self._shards:
            name = shard_name(number)
            tensors = open_tensors(self._artifact.path(name))
            low, high = self._bounds(number)
            if {"positions", "values"} - tensors.keys() or not (
                len(tensors["positions"]) == len(tensors["values"]) == high - low
            ):
                raise Corrupt(f"{name} of the codes artifact is inconsistent. Run its training job again.")
            self._shards[number] = tensors["positions"], tensors["values"]
        return self._shards[number]

    def _check(self) -> None:
        """Raises Corrupt where lengths disagree."""
        documents = self.n_documents + 1
        fits = (
            bool((np.diff(self._shard_starts) > 0).all() and (self._shard_starts < max(1, self.d_sae)).all())
            and len(self._doc_token_offsets) == len(self._text_offsets) == documents
            and self._doc_token_offsets[-1] == len(self._token_ids) == len(self._spans)
            and self._text_offsets[-1] == len(self._texts)
            and all(
                bool((np.diff(o) >= 0).all())
                for o in (self._feature_offsets, self._doc_token_offsets, self._text_offsets)
            )
        )
        if not fits:
            raise Corrupt("The codes artifact is inconsistent: its lengths disagree. Run its training job again.")


def _json(path: Path) -> Any:
    """A JSON file. Raises Corrupt for what is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{path.name} of the codes artifact cannot be read. Run its training job again.") from error
