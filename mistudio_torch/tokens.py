"""A corpus as tokens on the disk, and the batches that go through the model.

Documents become sequences of at most `max_sequence_length` tokens, each with its own special
tokens; ids, character spans and the special mask lie in flat memory-mapped files. No model here.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_DOCUMENTS_A_CALL = 256
_CHARACTERS_A_CALL = 1 << 20
_DOCUMENTS_COUNTED = 1 << 12
_EVEN, _LITTLE = 16, 1.125
ROWS = 128
"""Rows of a matrix product come in multiples of this where that is cheap."""
CPU_TOKENS = 2048
"""Tokens of a forward pass on a CPU, at most: what it works on stays in the cache."""


class Tokenizer(Protocol):
    """A fast tokenizer of transformers, as far as it is used here."""

    def __call__(self, texts: list[str], **kwargs: Any) -> Any:
        """Encodes texts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """Tokens of many documents. D documents, S sequences, T tokens, special ones included."""

    ids_T: Array
    """uint32: token ids."""
    spans_T2: Array
    """int32: first and past-last character in the document's text; 0, 0 for special tokens."""
    special_T: Array
    """bool: goes through the model, but is no training token."""
    sequence_offsets_S: Array
    """int64 (S + 1,): first token of each sequence."""
    document_offsets_D: Array
    """int64 (D + 1,): first sequence of each document."""
    dropped_documents: int
    """Documents without a single real token."""

    @property
    def n_documents(self) -> int:
        """Number of documents kept."""
        return len(self.document_offsets_D) - 1

    @property
    def n_tokens(self) -> int:
        """Number of real tokens."""
        return int(len(self.special_T) - np.count_nonzero(self.special_T))

    def real_tokens(self) -> Array:
        """int64 (D,): real tokens of each document."""
        if not self.n_documents:
            return np.zeros(0, np.int64)
        firsts_D = self.sequence_offsets_S[self.document_offsets_D]
        counts_D = np.empty(self.n_documents, np.int64)
        for start in range(0, self.n_documents, _DOCUMENTS_COUNTED):  # reduceat widens all that it is given
            ends = firsts_D[start : start + _DOCUMENTS_COUNTED + 1]
            real = ~self.special_T[ends[0] : ends[-1]]
            counts_D[start : start + _DOCUMENTS_COUNTED] = np.add.reduceat(real, ends[:-1] - ends[0], dtype=np.int64)
        return counts_D

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.max(np.diff(self.sequence_offsets_S), initial=1))

    def sequences(self, documents: Iterable[int]) -> list[tuple[int, int]]:
        """(first, past-last) token of every sequence of the documents, in their order."""
        offsets, found = self.sequence_offsets_S, []
        for document in documents:
            first, last = self.document_offsets_D[document], self.document_offsets_D[document + 1]
            found += [(int(offsets[s]), int(offsets[s + 1])) for s in range(first, last)]
        return found


def tokenize(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_sequence_length: int,
    bos_id: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> tuple[TokenTable, Array]:
    """Tokenises documents into files under `folder`; calls `on_batch(documents so far)` often.

    `bos_id` is put before each sequence as a special token, where the tokenizer adds none itself.
    Returns the table and, int64 (D,), the number in the input of each document kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sequence_lengths, document_sequences, kept = array("i"), array("i"), array("q")
    seen = 0
    with (
        (folder / "ids").open("wb") as ids,
        (folder / "spans").open("wb") as spans,
        (folder / "special").open("wb") as marks,
    ):
        for texts in _batches(documents):
            for number, sequences in enumerate(_encode(texts, tokenizer, max_sequence_length, bos_id)):
                if not sequences:
                    continue
                for token_ids, token_spans, special in sequences:
                    ids.write(token_ids.data)
                    spans.write(token_spans.data)
                    marks.write(special.data)
                    sequence_lengths.append(len(token_ids))
                document_sequences.append(len(sequences))
                kept.append(seen + number)
            seen += len(texts)
            on_batch(seen)
    table = TokenTable(
        ids_T=_open(folder / "ids", np.uint32),
        spans_T2=_open(folder / "spans", np.int32).reshape(-1, 2),
        special_T=_open(folder / "special", np.bool_),
        sequence_offsets_S=_offsets(sequence_lengths),
        document_offsets_D=_offsets(document_sequences),
        dropped_documents=seen - len(kept),
    )
    return table, np.asarray(kept, np.int64)


def length_buckets(sequences: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of sequences in batches of like length, longest first; ties in their given order."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i][0] - sequences[i][1])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batch_tokens(table: TokenTable, batch_size: int, *, on_gpu: bool) -> int:
    """Tokens of a forward pass, with padding: those of `batch_size` longest sequences; on a CPU at most CPU_TOKENS."""
    whole = batch_size * table.longest
    return whole if on_gpu else max(table.longest, min(whole, CPU_TOKENS))


def token_batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, longest first, ties in their given order, in batches of at most `tokens` with padding.

    A batch has at least one sequence; short ones share a pass in larger numbers, in multiples of 16: see `padded`.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        count = max(1, tokens // max(1, lengths[order[start]]))
        count -= count % _EVEN if count > _EVEN else 0
        yield order[start : start + count]
        start += count


def padded(
    table: TokenTable, sequences: Sequence[tuple[int, int]], pad_id: int, *, widest: int = 0
) -> tuple[Array, Array]:
    """ids_BT int64 and mask_BT int64 (1 for tokens, 0 for padding at the right).

    Where a little more padding makes B x T a multiple of ROWS there is more of it, up to `widest` tokens: matrix
    products of such sizes are faster, and no copy has to fill them up.
    """
    width = max(last - first for first, last in sequences)
    step = ROWS // math.gcd(ROWS, len(sequences))
    wider = -(-width // step) * step
    if wider <= widest and ((wider - width) * len(sequences) < ROWS or wider <= width * _LITTLE):
        width = wider
    ids_BT = np.full((len(sequences), width), pad_id, np.int64)
    mask_BT = np.zeros((len(sequences), width), np.int64)
    for row, (first, last) in enumerate(sequences):
        ids_BT[row, : last - first] = table.ids_T[first:last]
        mask_BT[row, : last - first] = 1
    return ids_BT, mask_BT


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists bounded in number and characters."""
    iterator = iter(documents)
    while chunk := list(islice(iterator, _DOCUMENTS_A_CALL)):
        batch: list[str] = []
        characters = 0
        for text in chunk:
            if batch and characters + len(text) > _CHARACTERS_A_CALL:
                yield batch
                batch, characters = [], 0
            batch.append(text)
            characters += len(text)
        yield batch


def _encode(
    texts: list[str], tokenizer: Tokenizer, length: int, bos_id: int | None
) -> Iterator[list[tuple[Array, Array, Array]]]:
    """For each text its sequences (ids, spans, special); none where it has no real token."""
    encoded = tokenizer(
        texts,
        add_special_tokens=True,
        truncation=True,
        max_length=length - (bos_id is not None),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    found: list[list[tuple[Array, Array, Array]]] = [[] for _ in texts]
    columns = zip(
        encoded["overflow_to_sample_mapping"],
        encoded["input_ids"],
        encoded["offset_mapping"],
        encoded["special_tokens_mask"],
        strict=True,
    )
    for sample, ids, offsets, special in columns:
        if all(special):
            continue
        head = [] if bos_id is None else [bos_id]
        mask = np.asarray([1] * len(head) + special, np.bool_)
        spans = np.asarray([(0, 0)] * len(head) + offsets, np.int32).reshape(-1, 2)
        found[sample].append((np.asarray(head + ids, np.uint32), spans, mask))
    yield from found


def _open(path: Path, dtype: type[np.generic]) -> Array:
    """A raw file mapped read-only; empty files as empty arrays."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _offsets(lengths: array[int]) -> Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
