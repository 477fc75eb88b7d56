"""Activations of a list of documents: tokens through the model, residual stream out, special tokens left out.

Order in is order out: row i of the result is the i-th real token of the documents. Batches are
formed by length inside one call only, so the result depends on the documents and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mistudio_torch.lm.hooks import residual_after
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.tokens import TokenTable, length_buckets, padded


def harvest(
    lm: LoadedLM,
    table: TokenTable,
    documents: Sequence[int],
    *,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """x_ND float32 on the CPU: the residual stream at every real token of `documents`, in their order.

    `on_batch` is called before each forward pass and may raise.
    """
    sequences = table.sequences(documents)
    keep = [~np.asarray(table.special_T[first:last]) for first, last in sequences]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([k.sum() for k in keep], dtype=np.int64)])
    x_ND = torch.empty(int(starts[-1]), lm.facts.hidden_size)
    for rows in length_buckets(sequences, batch_size):
        on_batch()
        ids_BT, mask_BT = padded(table, [sequences[r] for r in rows], lm.pad_id)
        out_BTD = residual_after(
            lm.model, lm.block, torch.from_numpy(ids_BT).to(lm.device), torch.from_numpy(mask_BT).to(lm.device)
        ).cpu()
        for position, row in enumerate(rows):
            kept = torch.from_numpy(keep[row])
            x_ND[starts[row] : starts[row + 1]] = out_BTD[position, : len(kept)][kept]
    return x_ND
