"""Writes sparse activations feature-major, in bounded memory, with the documents they come from.

Triplets (token, feature, value) arrive token-major; each ~2 million are sorted by feature and
spilled; `close()` merges the spills one range of features at a time. Knows files, not artifacts.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mistudio_torch.codes.attributes import AttributesWriter
from mistudio_torch.codes.tensorfile import Array, create, flush

FORMAT_VERSION = 1
"""Version of the layout, in `meta.json`."""
_SPILL_TRIPLETS = 2_000_000
_MAX_FLOAT16 = 65504.0
_COPY_ROWS = 1 << 20


class CodesWriter:
    """Writes one codes artifact into a folder: add every document, then `close()`.

    As a context manager it closes its files after an error; the folder is then the caller's to remove.
    """

    def __init__(
        self, folder: Path, *, d_sae: int, meta: Mapping[str, object], spill_triplets: int = _SPILL_TRIPLETS
    ) -> None:
        """`meta` goes into `meta.json` beside `format_version`, `d_sae` and the counts."""
        self.folder = folder
        self.d_sae = d_sae
        self.n_tokens = 0
        self.n_documents = 0
        self.n_nonzero = 0
        self._meta = dict(meta)
        self._spill_triplets = spill_triplets
        self._spill = folder / ".spill"
        self._spill.mkdir(parents=True)
        self._buffer: list[tuple[Array, Array, Array]] = []
        self._buffered = 0
        self._spills: list[Array] = []
        self._doc_token_offsets, self._text_offsets = array("q", [0]), array("q", [0])
        self._heldout = array("b")
        self._attributes = AttributesWriter(folder)
        self._texts = (folder / "texts.bin").open("wb")
        self._token_ids = (self._spill / "token_ids").open("wb")
        self._spans = (self._spill / "spans").open("wb")

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
        self._add_rows(text, token_ids, spans, heldout=heldout)
        self._attributes.add(labels or {}, group, time)
        stored = np.minimum(values, _MAX_FLOAT16).astype(np.float16)
        positions = token_index.astype(np.int64) + self.n_tokens
        self._buffer.append((features.astype(np.int32), positions, stored))
        self._buffered += len(features)
        self.n_tokens += n
        self.n_nonzero += len(features)
        if self._buffered >= self._spill_triplets:
            self._write_spill()

    def close(self, on_part: Callable[[], None] = lambda: None) -> None:
        """Merges the spills, writes every file and removes what was temporary.

        `on_part` is called before each range of features and may raise.
        """
        self._write_spill()
        self._close_handles()
        self._write_codes(on_part)
        self._write_documents()
        self._write_meta()
        shutil.rmtree(self._spill)

    def __enter__(self) -> CodesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of open files after an error; `close()` is the caller's, who alone knows that all is in."""
        self._close_handles()

    def _close_handles(self) -> None:
        for handle in (self._texts, self._token_ids, self._spans, self._attributes):
            handle.close()

    def _add_rows(self, text: str, token_ids: Array, spans: Array, *, heldout: bool) -> None:
        """The document itself: text and tokens."""
        encoded = text.encode("utf-8", "replace")
        self._texts.write(encoded)
        _write(self._token_ids, token_ids.astype(np.uint32))
        _write(self._spans, spans.astype(np.int32))
        self._doc_token_offsets.append(self._doc_token_offsets[-1] + len(token_ids))
        self._text_offsets.append(self._text_offsets[-1] + len(encoded))
        self._heldout.append(heldout)
        self.n_documents += 1

    def _write_spill(self) -> None:
        """Sorts the buffer by (feature, position) and puts it on the disk."""
        if not self._buffered:
            return
        features, positions, values = (np.concatenate(column) for column in zip(*self._buffer, strict=True))
        order = np.lexsort((positions, features))
        stem = self._spill / f"{len(self._spills):06d}"
        np.save(stem.with_suffix(".positions.npy"), positions[order], allow_pickle=False)
        np.save(stem.with_suffix(".values.npy"), values[order], allow_pickle=False)
        counts = np.bincount(features, minlength=self.d_sae)
        self._spills.append(_offsets(counts))
        self._buffer, self._buffered = [], 0

    def _write_codes(self, on_part: Callable[[], None]) -> None:
        """`codes.safetensors`: each feature's part of every spill, in spill order, so positions rise."""
        total = sum(self._spills, np.zeros(self.d_sae + 1, np.int64))
        dtype = "uint32" if self.n_tokens < 1 << 32 else "int64"
        out = create(
            self.folder / "codes.safetensors",
            {
                "feature_offsets": ("int64", (self.d_sae + 1,)),
                "positions": (dtype, (self.n_nonzero,)),
                "values": ("float16", (self.n_nonzero,)),
            },
        )
        out["feature_offsets"][:] = total
        for first, last in _ranges(total, self._spill_triplets):
            on_part()
            self._merge(out, total, first, last)
        flush(out)

    def _merge(self, out: Mapping[str, Array], total: Array, first: int, last: int) -> None:
        """Writes features first..last-1."""
        features, positions, values = [], [], []
        for index, offsets in enumerate(self._spills):
            part = slice(offsets[first], offsets[last])
            stem = self._spill / f"{index:06d}"
            positions.append(np.load(stem.with_suffix(".positions.npy"), mmap_mode="r")[part])
            values.append(np.load(stem.with_suffix(".values.npy"), mmap_mode="r")[part])
            features.append(np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1])))
        if not features:
            return
        order = np.argsort(np.concatenate(features), kind="stable")
        target = slice(total[first], total[last])
        out["positions"][target] = np.concatenate(positions)[order]
        out["values"][target] = np.concatenate(values)[order]

    def _write_documents(self) -> None:
        """`documents.safetensors` and what its documents carry along."""
        specs: dict[str, tuple[str, tuple[int, ...]]] = {
            "doc_token_offsets": ("int64", (self.n_documents + 1,)),
            "text_offsets": ("int64", (self.n_documents + 1,)),
            "spans": ("int32", (self.n_tokens, 2)),
            "token_ids": ("uint32", (self.n_tokens,)),
            "heldout": ("uint8", (self.n_documents,)),
        }
        columns = self._attributes.columns()
        specs |= {name: (str(values.dtype), values.shape) for name, values in columns.items()}
        out = create(self.folder / "documents.safetensors", specs)
        out["doc_token_offsets"][:] = np.frombuffer(self._doc_token_offsets, np.int64)
        out["text_offsets"][:] = np.frombuffer(self._text_offsets, np.int64)
        out["heldout"][:] = np.frombuffer(self._heldout, np.int8)
        for name, values in columns.items():
            out[name][:] = values
        _copy(self._spill / "token_ids", out["token_ids"])
        _copy(self._spill / "spans", out["spans"])
        flush(out)

    def _write_meta(self) -> None:
        """`meta.json`."""
        meta = (
            self._meta
            | {
                "format_version": FORMAT_VERSION,
                "d_sae": self.d_sae,
                "n_tokens": self.n_tokens,
                "n_documents": self.n_documents,
                "n_nonzero": self.n_nonzero,
            }
            | self._attributes.meta()
        )
        (self.folder / "meta.json").write_text(json.dumps(meta, sort_keys=True, indent=1, ensure_ascii=False))


def _write(handle: BinaryIO, rows: Array) -> None:
    handle.write(np.ascontiguousarray(rows).data)


def _copy(source: Path, target: Array) -> None:
    """Copies a raw file into a mapped tensor of the same size, a part at a time."""
    if not target.size:
        return
    raw = np.memmap(source, dtype=target.dtype, mode="r", shape=target.shape)
    for start in range(0, len(target), _COPY_ROWS):
        target[start : start + _COPY_ROWS] = raw[start : start + _COPY_ROWS]


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
