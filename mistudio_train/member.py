"""One SAE of a running job: its variant, its trainer, its curves, and why it failed if it did.

Trains on one block at a time. What a block is, and when to checkpoint, is the job's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mistudio_core.errors import MistudioError
from mistudio_torch.tokenised import Array
from mistudio_train.curves import CurveRecorder
from mistudio_train.trainer import StepOutput, Trainer
from mistudio_train.variants import Variant


class Member:
    """See the module."""

    def __init__(self, variant: Variant, trainer: Trainer) -> None:
        """A member that has seen nothing yet."""
        self.variant = variant
        self.trainer = trainer
        self.curves = CurveRecorder()
        self.error: str | None = None

    @property
    def active(self) -> bool:
        """Whether it still trains."""
        return self.error is None and not self.trainer.progress.finished

    def waits_for(self, epoch: int, block: int) -> bool:
        """Whether this block is the next one of this SAE."""
        progress = self.trainer.progress
        return self.active and (progress.epoch, progress.block) == (epoch, block)

    def train_block(
        self,
        activations: Mapping[str, Tensor],
        batches: Sequence[Array],
        *,
        normalize: bool,
        on_step: Callable[[Member, StepOutput], None],
    ) -> None:
        """Steps through a block's batches until the token budget is spent.

        Raises Failed (NON_FINITE_LOSS), InvalidInput (ACTIVATIONS_INVALID).
        """
        trainer, progress = self.trainer, self.trainer.progress
        raw = [activations[hook.name] for hook in self.variant.hooks]
        x_ND, target_ND = trainer.prepare(*raw, normalize=normalize)
        transcodes = len(raw) > 1
        for rows in batches:
            start = time.monotonic()
            row_B = torch.from_numpy(rows)
            out = trainer.step(x_ND[row_B], target_ND[row_B] if transcodes else None)
            progress.step_seconds += time.monotonic() - start
            on_step(self, out)
            if progress.tokens >= trainer.total_tokens:
                break
        trainer.check()
        progress.block += 1

    def fail(self, error: MistudioError) -> None:
        """Ends this SAE; the others of the job go on."""
        self.error = error.message
