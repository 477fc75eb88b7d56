"""What every stage of a training job works with: configuration, runtime, model, corpus, processes.

Gives activations of documents, harvested or read back from the disk. Trains and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistudio_core.jobs.context import JobContext
from mistudio_torch.harvest import harvest
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.tokenised import Array
from mistudio_train.config import TrainConfig
from mistudio_train.data import Corpus
from mistudio_train.parallel import ALONE, World
from mistudio_train.variants import Variant

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def model_dtype(config: TrainConfig, device: str) -> torch.dtype:
    """Number format in which the language model computes on a device (`cpu:0`, `cuda:1`)."""
    return _DTYPES.get(config.dtype, torch.float32 if device.startswith("cpu") else torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """See the module."""

    config: TrainConfig
    """What was asked for."""
    ctx: JobContext
    """The runtime."""
    lm: LoadedLM
    """The model, cut off after the deepest hook."""
    corpus: Corpus
    """The tokenised corpus."""
    variants: tuple[Variant, ...]
    """The SAEs of the job."""
    world: World = ALONE
    """The processes that train together."""

    def activations(self, documents: Array) -> dict[str, Tensor]:
        """Hook name -> x_ND of documents in their order; watches for a cancel before each forward pass.

        Several processes harvest a share each and exchange what they got.
        """
        if self.world.size == 1:
            return self._harvested(documents.tolist())
        ends = np.cumsum(self.corpus.real_tokens[documents])
        edges = np.searchsorted(ends, ends[-1] * np.arange(self.world.size + 1) / self.world.size)
        mine = documents[edges[self.world.rank] : edges[self.world.rank + 1]]
        if self.world.rank == self.world.size - 1:
            mine = documents[edges[self.world.rank] :]
        found = self._harvested(mine.tolist())
        names = sorted(found)
        return dict(zip(names, self.world.gathered([found[name] for name in names]), strict=True))

    def _harvested(self, documents: Sequence[int]) -> dict[str, Tensor]:
        return harvest(
            self.lm,
            self.corpus.table,
            documents,
            batch_size=self.config.batch_size,
            on_batch=self.ctx.check_cancelled,
        )
