"""Activations of a list of documents: tokens through the model, what its hooks read out, special tokens left out.

Order in is order out: row i of a result is the i-th real token of the documents. Batches are formed
by length inside one call only, so a result depends on the documents and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mistudio_torch.cpu import fast_linear
from mistudio_torch.lm.hooks import capture
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.tokens import TokenTable, batch_tokens, padded, token_batches

_IN_FLIGHT = 2
"""Batches whose activations are on their way from a GPU while the next ones are computed."""


def harvest(
    lm: LoadedLM,
    table: TokenTable,
    documents: Sequence[int],
    *,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
    bfloat16: bool = False,
) -> dict[str, Tensor]:
    """Hook name -> x_ND float32 on the CPU: what the hook reads at every real token of `documents`, in their order.

    All hooks are read in one pass of the model. A pass takes as many tokens as `batch_size` of the longest
    sequences have (on a CPU fewer, see batch_tokens). `on_batch` is called before each pass and may raise.
    `bfloat16`: see `cpu.linear`; for float32 models on a CPU.
    """
    sequences = table.sequences(documents)
    kept = [~np.asarray(table.special_T[first:last]) for first, last in sequences]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([k.sum() for k in kept], dtype=np.int64)])
    rows = _Rows({name: torch.empty(int(starts[-1]), width) for name, width in lm.widths.items()})
    tokens = batch_tokens(table, batch_size, on_gpu=lm.device.type != "cpu")
    with fast_linear(bfloat16=bfloat16):
        for batch in _batches(table, sequences, kept, starts, tokens, lm.pad_id):
            on_batch()
            ids_BT, keep_N = _sent(batch.ids_BT, lm.device), _sent(batch.keep_N, lm.device)
            mask_BT = None if batch.mask_BT is None else _sent(batch.mask_BT, lm.device)
            rows.put(batch.row_N, capture(lm.model, lm.taps, ids_BT, mask_BT, keep_N))
    return rows.finished()


def harvest_blocks(
    lm: LoadedLM,
    table: TokenTable,
    blocks: Iterable[Sequence[int]],
    *,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
    bfloat16: bool = False,
    ahead: bool | None = None,
) -> Generator[dict[str, Tensor]]:
    """`harvest` of each block of documents, in order; the next one is harvested while the caller works on this one.

    `ahead` is on where the model is on a GPU, by default: a thread and a stream of its own keep the GPU busy. On a
    CPU both would share the same cores. `on_batch` is called in that thread. What is harvested ahead and
    not wanted any more is thrown away.
    """
    left = threading.Event()

    def before_each() -> None:
        if left.is_set():
            raise _Left
        on_batch()

    def read(documents: Sequence[int]) -> dict[str, Tensor]:
        with _own_stream(lm.device):
            return harvest(lm, table, documents, batch_size=batch_size, on_batch=before_each, bfloat16=bfloat16)

    if not (lm.device.type == "cuda" if ahead is None else ahead):
        yield from map(read, blocks)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="harvest") as thread:
        try:
            coming = None
            for documents in blocks:
                current, coming = coming, thread.submit(read, documents)
                if current is not None:
                    yield current.result()
            if coming is not None:
                yield coming.result()
        finally:
            left.set()


def _own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """A stream of its own on a GPU, so that nothing waits for what others queue."""
    if device.type != "cuda":
        return nullcontext()
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(stream)


class _Left(Exception):
    """The caller wants no more blocks; never leaves this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Sequences of like length. N real tokens of B sequences of T positions."""

    ids_BT: Tensor
    """int64 token ids."""
    mask_BT: Tensor | None
    """int64, 1 for tokens, 0 for padding; None where there is no padding."""
    keep_N: Tensor
    """int64: positions of the real tokens among the B x T, rising."""
    row_N: Tensor
    """int64: their rows in the result."""


def _batches(
    table: TokenTable,
    sequences: Sequence[tuple[int, int]],
    kept: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]],
    starts: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    tokens: int,
    pad_id: int,
) -> Iterator[_Batch]:
    """Batches over all sequences, longest first."""
    lengths, widest = [last - first for first, last in sequences], table.longest
    for numbers in token_batches(lengths, tokens):
        ids_BT, mask_BT = padded(table, [sequences[n] for n in numbers], pad_id, widest=widest)
        width = ids_BT.shape[1]
        keep_N = np.concatenate([np.flatnonzero(kept[n]) + b * width for b, n in enumerate(numbers)])
        row_N = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in numbers])
        yield _Batch(
            ids_BT=torch.from_numpy(ids_BT),
            mask_BT=None if lengths[numbers[-1]] == width else torch.from_numpy(mask_BT),
            keep_N=torch.from_numpy(keep_N),
            row_N=torch.from_numpy(row_N),
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the model's device; a GPU need not wait for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class _Rows:
    """Puts each batch's activations into their rows; those of a GPU come through pinned memory, a little later."""

    def __init__(self, found: dict[str, Tensor]) -> None:
        self._found = found
        self._in_flight: deque[tuple[Tensor, dict[str, Tensor], list[torch.cuda.Event]]] = deque()

    def put(self, row_N: Tensor, read: Mapping[str, Tensor]) -> None:
        """One batch."""
        if all(x_ND.device.type == "cpu" for x_ND in read.values()):
            self._write(row_N, read)
            return
        copies: dict[str, Tensor] = {}
        arrived: list[torch.cuda.Event] = []
        for name, x_ND in read.items():
            copies[name] = torch.empty(x_ND.shape, dtype=x_ND.dtype, pin_memory=True)
            with torch.cuda.device(x_ND.device):
                copies[name].copy_(x_ND, non_blocking=True)
                arrived.append(torch.cuda.current_stream().record_event())
        self._in_flight.append((row_N, copies, arrived))
        if len(self._in_flight) > _IN_FLIGHT:
            self._land()

    def finished(self) -> dict[str, Tensor]:
        """Everything, once all of it is there."""
        while self._in_flight:
            self._land()
        return self._found

    def _land(self) -> None:
        row_N, copies, arrived = self._in_flight.popleft()
        for event in arrived:
            event.synchronize()
        self._write(row_N, copies)

    def _write(self, row_N: Tensor, read: Mapping[str, Tensor]) -> None:
        for name, x_ND in read.items():
            self._found[name].index_copy_(0, row_N, x_ND.float())
