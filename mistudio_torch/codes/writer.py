"""Writes sparse activations feature-major, in bounded memory, with the documents they come from.

Triplets (token, feature, value) arrive token-major; each ~2 million are sorted by feature and
spilled; `close()` merges the spills into shards, one range of features at a time. Until then all is
append-only in a work folder: a writer on the folder of a killed one goes on after its last spill.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mistudio_torch.codes.attributes import AttributesWriter
from mistudio_torch.codes.tensorfile import Array, create, finish

FORMAT_VERSION = 2
"""Version of the layout, in `meta.json`."""
_SPILL_TRIPLETS, _SPILL_DOCUMENTS = 2_000_000, 1 << 16
_SHARD_ACTIVATIONS = 1 << 26
_MAX_FLOAT16 = 65504.0
_COPY_ROWS = 1 << 20
_FILES = ("texts.bin", "token_ids", "spans", "documents.jsonl")


def shard_name(number: int) -> str:
    """File of the shard with this number."""
    return f"codes-{number:05d}.safetensors"


class CodesWriter:
    """Writes one codes artifact into a folder: add every document, then `close()`.

    As a context manager it closes its files after an error; the folders are then the caller's to remove,
    or the work folder to keep for the next attempt.
    """

    def __init__(
        self,
        folder: Path,
        *,
        d_sae: int,
        meta: Mapping[str, object],
        work: Path | None = None,
        spill_triplets: int = _SPILL_TRIPLETS,
        shard_activations: int = _SHARD_ACTIVATIONS,
    ) -> None:
        """`meta` goes into `meta.json` beside `format_version`, `d_sae` and the counts.

        `work` is where everything is until `close()`, by default inside of `folder`. What a killed writer of the
        same meta left there is taken up: `n_documents` says how many documents are in.
        """
        self.folder = folder
        self.d_sae = d_sae
        self.n_tokens = self.n_documents = self.n_nonzero = 0
        self._meta = dict(meta)
        self._limits = spill_triplets, shard_activations
        self._work = work or folder / ".work"
        self._buffer: list[tuple[Array, Array, Array]] = []
        self._buffered = self._spills = 0
        self._take_up()
        self._handles = {name: (self._work / name).open("ab") for name in _FILES}
        self._journal = (self._work / "journal.jsonl").open("ab")

    def add_document(
        self,
        text: str,
        token_ids: Array,
        spans: Array,
        token_index: Array,
        features: Array,
        values: Array,
        *,
        labels: Mapping[str, str] | None = None,
        group: str = "",
        time: int | None = None,
        heldout: bool = False,
    ) -> None:
        """Adds one document of n tokens and its m non-zero codes, with what travels along (corpus/documents.py).

        `token_ids` uint32 (n,); `spans` int32 (n, 2), character start and end in `text`;
        `token_index` (m,) token within the document, `features` (m,), `values` (m,) in any order.
        Values above 65504 are stored as 65504. Raises ValueError for shapes or ranges that do not fit.
        """
        n = len(token_ids)
        if spans.shape != (n, 2) or not len(token_index) == len(features) == len(values):
            raise ValueError("token_ids, spans and triplets disagree in length")
        if len(features) and (features.min() < 0 or features.max() >= self.d_sae):
            raise ValueError("a feature is outside of the SAE")
        if len(token_index) and (token_index.min() < 0 or token_index.max() >= n):
            raise ValueError("a token is outside of the document")
        encoded = text.encode("utf-8", "replace")
        self._handles["texts.bin"].write(encoded)
        _write(self._handles["token_ids"], token_ids.astype(np.uint32))
        _write(self._handles["spans"], spans.astype(np.int32))
        row = [n, len(encoded), bool(heldout), dict(labels or {}), group, time]
        self._handles["documents.jsonl"].write(json.dumps(row).encode() + b"\n")
        stored = np.minimum(values, _MAX_FLOAT16).astype(np.float16)
        self._buffer.append((features.astype(np.int32), token_index.astype(np.int64) + self.n_tokens, stored))
        self._buffered += len(features)
        self.n_documents += 1
        self.n_tokens += n
        self.n_nonzero += len(features)
        if self._buffered >= self._limits[0] or len(self._buffer) >= _SPILL_DOCUMENTS:
            self._write_spill()

    def close(self, on_part: Callable[[], None] = lambda: None) -> None:
        """Merges the spills, writes every file and removes what was temporary.

        `on_part` is called before each range of features and may raise.
        """
        self._write_spill()
        self._close_handles()
        shards = self._write_codes(on_part)
        shutil.copyfile(self._work / "texts.bin", self.folder / "texts.bin")
        attributes = self._write_documents()
        counts = {"n_tokens": self.n_tokens, "n_documents": self.n_documents, "n_nonzero": self.n_nonzero}
        meta = (
            self._meta | {"format_version": FORMAT_VERSION, "d_sae": self.d_sae, "shards": shards} | counts | attributes
        )
        (self.folder / "meta.json").write_text(json.dumps(meta, sort_keys=True, indent=1, ensure_ascii=False))
        shutil.rmtree(self._work)

    def __enter__(self) -> CodesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of open files after an error; `close()` is the caller's, who alone knows that all is in."""
        self._close_handles()

    def _close_handles(self) -> None:
        for handle in (*self._handles.values(), self._journal):
            handle.close()

    def _take_up(self) -> None:
        """Goes back to the last spill of a writer of the same meta; an empty work folder where there is none."""
        about, state = json.dumps([FORMAT_VERSION, self.d_sae, self._meta], sort_keys=True), self._noted()
        if state is None or not self._has(state) or (self._work / "about.json").read_text() != about:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(parents=True)
            (self._work / "about.json").write_text(about)
            return
        for name in (*_FILES, "journal.jsonl"):
            with (self._work / name).open("ab") as handle:
                handle.truncate(state["bytes"][name])
        self._spills, self.n_documents = state["spills"], state["documents"]
        self.n_tokens, self.n_nonzero = state["tokens"], state["nonzero"]

    def _noted(self) -> dict[str, Any] | None:
        """The last whole line of the journal, with the journal's own length up to it."""
        path = self._work / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            return None
        state: dict[str, Any] = json.loads(whole[-1])
        state["bytes"]["journal.jsonl"] = sum(len(line) for line in whole)
        return state

    def _has(self, state: Mapping[str, Any]) -> bool:
        """Whether the files are there as far as the journal says: after a power cut they may not be."""
        sizes = all(
            (self._work / name).exists() and (self._work / name).stat().st_size >= size
            for name, size in state["bytes"].items()
        )
        return sizes and all(path.exists() for n in range(state["spills"]) for path in self._spill_files(n))

    def _spill_files(self, number: int) -> tuple[Path, Path, Path]:
        stem = self._work / f"{number:06d}"
        return stem.with_suffix(".offsets.npy"), stem.with_suffix(".positions.npy"), stem.with_suffix(".values.npy")

    def _write_spill(self) -> None:
        """Sorts the buffer by (feature, position) and puts it on the disk; then notes how far everything is."""
        if not self._buffered:
            return
        features, positions, values = (np.concatenate(column) for column in zip(*self._buffer, strict=True))
        rising = bool((positions[1:] >= positions[:-1]).all())
        order = _by_feature(features, self.d_sae) if rising else np.lexsort((positions, features))
        counts = np.bincount(features, minlength=self.d_sae)
        for path, column in zip(
            self._spill_files(self._spills), (_offsets(counts), positions[order], values[order]), strict=True
        ):
            np.save(path, column, allow_pickle=False)
        self._spills += 1
        self._buffer, self._buffered = [], 0
        for handle in self._handles.values():
            handle.flush()
        state = {
            "spills": self._spills,
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "nonzero": self.n_nonzero,
            "bytes": {name: handle.tell() for name, handle in self._handles.items()},
        }
        self._journal.write(json.dumps(state).encode() + b"\n")
        self._journal.flush()

    def _write_codes(self, on_part: Callable[[], None]) -> list[int]:
        """The shards, and `offsets.safetensors`; returns the first feature of every shard.

        Each feature's part of every spill stands in spill order, so positions rise.
        """
        spills = [np.load(self._spill_files(n)[0]) for n in range(self._spills)]
        total = sum(spills, np.zeros(self.d_sae + 1, np.int64))
        out = create(self.folder / "offsets.safetensors", {"feature_offsets": ("int64", (self.d_sae + 1,))})
        out["feature_offsets"][:] = total
        finish(out)
        shards = list(_ranges(total, self._limits[1]))
        for number, (first, last) in enumerate(shards):
            size = int(total[last] - total[first])
            dtype = "uint32" if self.n_tokens < 1 << 32 else "int64"
            specs = {"positions": (dtype, (size,)), "values": ("float16", (size,))}
            out = create(self.folder / shard_name(number), specs)
            for low, high in _ranges(total[first : last + 1], self._limits[0]):
                on_part()
                self._merge(out, spills, total, first, (first + low, first + high))
            finish(out)
        return [first for first, _ in shards]

    def _merge(
        self, out: Mapping[str, Array], spills: Sequence[Array], total: Array, base: int, part: tuple[int, int]
    ) -> None:
        """Writes the features of a part into the shard that begins with feature `base`."""
        first, last = part
        features, positions, values = [], [], []
        for number, offsets in enumerate(spills):
            here = slice(offsets[first], offsets[last])
            _, positions_file, values_file = self._spill_files(number)
            positions.append(np.load(positions_file, mmap_mode="r")[here])
            values.append(np.load(values_file, mmap_mode="r")[here])
            features.append(np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1])))
        if not features:
            return
        order = _by_feature(np.concatenate(features), last - first)
        target = slice(total[first] - total[base], total[last] - total[base])
        out["positions"][target] = np.concatenate(positions)[order]
        out["values"][target] = np.concatenate(values)[order]

    def _write_documents(self) -> dict[str, object]:
        """`documents.safetensors` and what its documents carry along; returns what `meta.json` says of that."""
        attributes = AttributesWriter(self.folder)
        tokens, texts = np.zeros(self.n_documents + 1, np.int64), np.zeros(self.n_documents + 1, np.int64)
        heldout = np.zeros(self.n_documents, np.uint8)
        for doc, (n, size, held, labels, group, time) in enumerate(self._rows()):
            tokens[doc + 1], texts[doc + 1], heldout[doc] = tokens[doc] + n, texts[doc] + size, held
            attributes.add(labels, group, time)
        attributes.close()
        specs: dict[str, tuple[str, tuple[int, ...]]] = {
            "doc_token_offsets": ("int64", (self.n_documents + 1,)),
            "text_offsets": ("int64", (self.n_documents + 1,)),
            "spans": ("int32", (self.n_tokens, 2)),
            "token_ids": ("uint32", (self.n_tokens,)),
            "heldout": ("uint8", (self.n_documents,)),
        }
        columns = attributes.columns()
        specs |= {name: (str(values.dtype), values.shape) for name, values in columns.items()}
        out = create(self.folder / "documents.safetensors", specs)
        known = {"doc_token_offsets": tokens, "text_offsets": texts, "heldout": heldout}
        for name, values in (known | columns).items():
            out[name][:] = values
        _copy(self._work / "token_ids", out["token_ids"])
        _copy(self._work / "spans", out["spans"])
        finish(out)
        return attributes.meta()

    def _rows(self) -> Iterator[list[Any]]:
        """What was noted of every document."""
        with (self._work / "documents.jsonl").open("rb") as lines:
            for line in lines:
                yield json.loads(line)


def _write(handle: BinaryIO, rows: Array) -> None:
    handle.write(np.ascontiguousarray(rows).data)


def _copy(source: Path, target: Array) -> None:
    """Copies a raw file into a mapped tensor of the same size, a part at a time."""
    if not target.size:
        return
    raw = np.memmap(source, dtype=target.dtype, mode="r", shape=target.shape)
    for start in range(0, len(target), _COPY_ROWS):
        target[start : start + _COPY_ROWS] = raw[start : start + _COPY_ROWS]


def _by_feature(features: Array, count: int) -> Array:
    """Stable order of features 0..count-1; numbers of 16 bits are sorted digit by digit, ten times as fast."""
    return np.argsort(features.astype(np.uint16) if count <= 1 << 16 else features, kind="stable")


def _offsets(counts: Array) -> Array:
    """Exclusive prefix sum with the total at the end, int64 (F + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _ranges(offsets: Array, limit: int) -> Sequence[tuple[int, int]]:
    """Feature ranges with at most `limit` triplets each; one feature alone may be more."""
    ranges, first, last_feature = [], 0, len(offsets) - 1
    while first < last_feature:
        last = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
        last = min(max(last, first + 1), last_feature)
        ranges.append((first, last))
        first = last
    return ranges
