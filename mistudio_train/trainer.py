"""One SAE in training: weights, optimiser, counters, and the step that moves them.

`step(x)` is numerics alone: no clock, no context, no file. What is in `TrainState` is what a
checkpoint holds (checkpoint.py). B tokens, D model width, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mistudio_core.errors import Failed
from mistudio_torch.sae import Sae, SaeShape, make_sae
from mistudio_torch.sae.base import Normalisation

_WARM_UP = 0.05
_DECAY = 0.2
_DEAD_SHARE, _DEAD_LEAST, _DEAD_MOST = 10, 50_000, 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """What one step reports."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """What was minimised."""
    current_loss: float
    """FVU of the batch: squared error on normalised input over its variance."""
    l0: float
    """Features that fire on a token, mean."""
    explained_variance: float
    """1 - current_loss."""
    dead_features: int
    """Features that have not fired for long."""
    learning_rate: float
    """Of this step."""

    def metrics(self) -> dict[str, float]:
        """Figures for JobContext.metrics."""
        return {
            "loss": self.loss,
            "current_loss": self.current_loss,
            "l0": self.l0,
            "explained_variance": self.explained_variance,
            "dead_features": float(self.dead_features),
            "learning_rate": self.learning_rate,
        }


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands: the part of the state that is JSON."""

    epoch: int = 0
    """Epoch to go on with, from 0."""
    block: int = 0
    """Block of it to go on with, from 0."""
    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens trained on."""
    epoch_loss_sum: float = 0.0
    """Sum of current_loss times tokens in this epoch."""
    epoch_tokens: int = 0
    """Tokens of this epoch."""
    epoch_losses: list[float] = field(default_factory=list)
    """Mean current_loss of the finished epochs."""
    seconds: float = 0.0
    """Time spent in training, all attempts together; never an input of a computation."""


class Trainer:
    """An SAE, its optimiser and where it stands."""

    def __init__(
        self, shape: SaeShape, *, seed: int, learning_rate: float, total_tokens: int, device: torch.device
    ) -> None:
        """A fresh SAE; `total_tokens` is what the learning rate's schedule spans."""
        self.sae: Sae = make_sae(shape)
        self.sae.initialise(seed)
        self.sae.to(device)
        self.device = device
        self.total_tokens = total_tokens
        self.peak_rate = learning_rate
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=learning_rate, fused=True)
        self.since_fired_F = torch.zeros(shape.d_sae, dtype=torch.int64, device=device)
        self.dead_after = min(max(total_tokens // _DEAD_SHARE, _DEAD_LEAST), _DEAD_MOST)
        self.normalisation: Normalisation | None = None
        self.progress = Progress()

    def prepare(self, x_ND: Tensor, *, normalize: bool) -> Tensor:
        """A block of raw activations as input: the first block ever seen sets the normalisation."""
        if self.normalisation is None:
            self.normalisation = Normalisation.of(x_ND) if normalize else Normalisation.identity(x_ND.shape[1])
        return self.normalisation.apply(x_ND)

    def step(self, x_BD: Tensor) -> StepOutput:
        """One update. Raises Failed (NON_FINITE_LOSS) before the update of a loss that is none."""
        progress = self.progress
        rate = self.peak_rate * rate_factor(progress.tokens / self.total_tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        dead_F = self.since_fired_F > self.dead_after
        loss = self.sae.loss(x_BD.to(self.device), dead_F)
        total, fvu = float(loss.total.detach()), float(loss.fvu)
        if not math.isfinite(total):
            raise _non_finite(progress.step + 1, rate)
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.sae.before_step()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sae.after_step()
        self.since_fired_F += len(x_BD)
        self.since_fired_F[loss.fired_F] = 0
        progress.step += 1
        progress.tokens += len(x_BD)
        progress.epoch_tokens += len(x_BD)
        progress.epoch_loss_sum += fvu * len(x_BD)
        return StepOutput(
            step=progress.step,
            loss=total,
            current_loss=fvu,
            l0=float(loss.l0),
            explained_variance=1.0 - fvu,
            dead_features=int(dead_F.sum()),
            learning_rate=rate,
        )

    def finish_epoch(self) -> float:
        """Closes the epoch, whole or not, and returns its mean current_loss."""
        progress = self.progress
        mean = progress.epoch_loss_sum / max(progress.epoch_tokens, 1)
        progress.epoch_losses.append(mean)
        progress.epoch, progress.block = progress.epoch + 1, 0
        progress.epoch_loss_sum, progress.epoch_tokens = 0.0, 0
        return mean

    def folded(self) -> Sae:
        """The SAE as it is saved: reads raw activations."""
        normalisation = self.normalisation or Normalisation.identity(self.sae.shape.d_in)
        folded = self.sae.cpu().folded(normalisation.mean_D, normalisation.scale)
        return folded.eval().requires_grad_(requires_grad=False)


def rate_factor(done: float) -> float:
    """Share of the peak rate at share `done` of the tokens: linear warm-up over 5 %, linear decay in the last 20 %."""
    warm_up = min(1.0, (done + 1e-3) / _WARM_UP)
    return max(1e-3, min(warm_up, (1.0 - done) / _DECAY))


def _non_finite(step: int, rate: float) -> Failed:
    return Failed(
        f"The loss became NaN or infinite at step {step}; nothing was updated with it. Lower learning_rate, "
        "or use dtype float32.",
        reason="NON_FINITE_LOSS",
        facts={"step": step, "learning_rate": rate},
    )
