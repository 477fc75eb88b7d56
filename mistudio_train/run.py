"""What every stage of a training job works with: configuration, runtime, model, corpus, processes.

Gives activations of documents, harvested or read back from the disk. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistudio_core.jobs.context import JobContext
from mistudio_torch.harvest import harvest, harvest_blocks
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.sae.sparse import has_fast_bfloat16
from mistudio_torch.tokenised import Array
from mistudio_train.activation_cache import ActivationCache
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
    cache: ActivationCache | None = None
    """Where activations of training documents are kept between epochs; None for nowhere."""

    @property
    def bfloat16(self) -> bool:
        """Whether the model's products are made in bfloat16 while training: its weights are, and nobody said otherwise.

        On a CPU that is fast at them. Figures and codes come of float32 products.
        """
        on_cpu = self.lm.device.type == "cpu"
        return on_cpu and self.config.dtype == "auto" and self.lm.stored_bfloat16 and has_fast_bfloat16()

    def blocks(self, blocks: Sequence[Array]) -> Generator[dict[str, Tensor]]:
        """`activations` of each block of training documents, in order.

        On a GPU the next block is harvested while the caller works on this one. What the cache holds is read.
        """
        if self.world.size > 1:
            yield from (self.activations(block, bfloat16=self.bfloat16) for block in blocks)
            return
        cached = [self.cache is not None and self.cache.holds(block) for block in blocks]
        missing = (block.tolist() for block, held in zip(blocks, cached, strict=True) if not held)
        harvested = harvest_blocks(
            self.lm,
            self.corpus.table,
            missing,
            batch_size=self.config.batch_size,
            on_batch=self.ctx.check_cancelled,
            bfloat16=self.bfloat16,
        )
        with closing(harvested):
            for block, held in zip(blocks, cached, strict=True):
                yield self._kept(block, None if held else next(harvested))

    def _kept(self, block: Array, harvested: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The block's activations, read where they were not harvested, and kept where they were."""
        if self.cache is None:
            return harvested or {}
        found = self.cache.read(block) if harvested is None else None
        if found is not None:
            return found
        harvested = harvested or self._harvested(block.tolist(), bfloat16=self.bfloat16)
        self.cache.write(block, harvested)
        return harvested

    def activations(self, documents: Array, *, bfloat16: bool = False) -> dict[str, Tensor]:
        """Hook name -> x_ND of documents in their order; watches for a cancel before each forward pass.

        Several processes harvest a share each and exchange what they got. `bfloat16`: see `harvest`.
        """
        if self.world.size == 1:
            return self._harvested(documents.tolist(), bfloat16=bfloat16)
        ends = np.cumsum(self.corpus.real_tokens[documents])
        edges = np.searchsorted(ends, ends[-1] * np.arange(self.world.size + 1) / self.world.size)
        mine = documents[edges[self.world.rank] : edges[self.world.rank + 1]]
        if self.world.rank == self.world.size - 1:
            mine = documents[edges[self.world.rank] :]
        found = self._harvested(mine.tolist(), bfloat16=bfloat16)
        names = sorted(found)
        return dict(zip(names, self.world.gathered([found[name] for name in names]), strict=True))

    def _harvested(self, documents: Sequence[int], *, bfloat16: bool) -> dict[str, Tensor]:
        return harvest(
            self.lm,
            self.corpus.table,
            documents,
            batch_size=self.config.batch_size,
            on_batch=self.ctx.check_cancelled,
            bfloat16=bfloat16,
        )
