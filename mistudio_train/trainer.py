"""One SAE in training: weights, optimiser, counters, and the step that moves them.

`step(x, target)` is numerics alone: no clock, no context, no file, and on a GPU no wait. What a
checkpoint holds of it is in checkpoint.py. B tokens, D widths, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mistudio_core.errors import Failed, InvalidInput
from mistudio_torch.sae import Sae, SaeShape, make_sae, warm_up
from mistudio_torch.sae.base import PENALISED
from mistudio_torch.sae.normalisation import Normalisation
from mistudio_torch.sae.resample import resample
from mistudio_train.parallel import ALONE, World

_WARM_UP = 0.05
_DECAY = 0.2
_SPARSITY_WARM_UP = 0.1
_DEAD_SHARE, _DEAD_LEAST, _DEAD_MOST = 10, 50_000, 10_000_000
_RESAMPLED_UNTIL = 0.7
"""Share of the run after which no dead feature starts anew: it would have no time to learn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """What one step reports. Figures stay on the device until `metrics` asks for them."""

    step: int
    """Number of the step, from 1."""
    learning_rate: float
    """Of this step."""
    loss: Tensor
    """What was minimised."""
    fvu: Tensor
    """FVU of the batch: squared error on normalised input over its variance; reported as current_loss."""
    l0: Tensor
    """Features that fire on a token, mean."""
    dead_features: Tensor
    """Features that have not fired for long."""

    def metrics(self) -> dict[str, float]:
        """Figures for JobContext.metrics; on a GPU this waits for the step."""
        fvu = float(self.fvu)
        return {
            "loss": float(self.loss),
            "current_loss": fvu,
            "l0": float(self.l0),
            "explained_variance": 1.0 - fvu,
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
    resampled_at: int = 0
    """Tokens at the last time that dead features started anew."""
    epoch_loss_sum: float = 0.0
    """Sum of current_loss times tokens in this epoch, up to the last checkpoint."""
    epoch_tokens: int = 0
    """Tokens of this epoch."""
    epoch_losses: list[float] = field(default_factory=list)
    """Mean current_loss of the finished epochs."""
    finished: bool = False
    """Whether nothing is left to train."""
    seconds: float = 0.0
    """Time spent in training, all attempts together; never an input of a computation."""
    step_seconds: float = 0.0
    """The part of it that was spent in steps of this SAE."""


class Trainer:
    """An SAE, its optimiser and where it stands."""

    def __init__(
        self,
        shape: SaeShape,
        *,
        seed: int,
        learning_rate: float,
        total_tokens: int,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        """An SAE without weights: the first block that `prepare` sees gives them; a checkpoint does as well.

        `total_tokens` is what the learning rate's schedule spans.
        """
        if device.type == "cpu":
            warm_up(shape.architecture)
        self.sae: Sae = make_sae(shape).to(device)
        self.seed = seed
        self.device = device
        self.total_tokens = total_tokens
        self.peak_rate = learning_rate
        self.world = world
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=learning_rate, fused=True)
        self.since_fired_F = torch.zeros(shape.d_sae, dtype=torch.int64, device=device)
        self.dead_after = min(max(total_tokens // _DEAD_SHARE, _DEAD_LEAST), _DEAD_MOST)
        self.source: Normalisation | None = None
        self.target: Normalisation | None = None
        self.progress = Progress()
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._not_finite = torch.zeros((), dtype=torch.bool, device=device)

    def prepare(
        self, x_ND: Tensor, target_ND: Tensor | None = None, *, normalize: bool = True
    ) -> tuple[Tensor, Tensor]:
        """A block of raw activations as (input, target); `target_ND` is a transcoder's.

        The first block ever seen sets the normalisation and the first weights.
        Raises InvalidInput (ACTIVATIONS_INVALID) for shapes that do not fit and for values that are no numbers.
        """
        shape = self.sae.shape
        _check(x_ND, shape.d_in, "input")
        if target_ND is not None:
            _check(target_ND, shape.d_out, "target")
        if self.source is None:
            make = Normalisation.of if normalize else lambda x: Normalisation.identity(x.shape[1])
            self.source = make(x_ND)
            self.target = self.source if target_ND is None else make(target_ND)
            x_n = self.source.apply(x_ND)
            self.sae.initialise(self.seed, x_n, x_n if target_ND is None else self._target(target_ND))
        x_n = self.source.apply(x_ND)
        return x_n, x_n if target_ND is None else self._target(target_ND)

    def step(self, x_BD: Tensor, target_BD: Tensor | None = None) -> StepOutput:
        """One update on normalised rows; an autoencoder's target is its input.

        Nothing is updated with a loss that is no number: on the CPU this raises Failed (NON_FINITE_LOSS),
        on a GPU `check` does, later.
        """
        progress, done = self.progress, self.progress.tokens / self.total_tokens
        rate = self.peak_rate * rate_factor(done, (progress.tokens + len(x_BD)) / self.total_tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x_BD = x_BD.to(self.device, non_blocking=True)
        target_BD = x_BD if target_BD is None else target_BD.to(self.device, non_blocking=True)
        whole = len(x_BD)
        mine = self.world.share(whole)
        dead_F = self.since_fired_F > self.dead_after
        loss = self.sae.backward(x_BD[mine], target_BD[mine], dead_F, min(1.0, done / _SPARSITY_WARM_UP))
        loss = self.world.joined(self.sae, loss)
        self._update(loss.total)
        self.since_fired_F = torch.where(loss.fired_F, 0, self.since_fired_F + whole)
        self._loss_sum += loss.fvu.double() * whole
        progress.step += 1
        progress.tokens += whole
        progress.epoch_tokens += whole
        self._resample(x_BD, target_BD)
        return StepOutput(
            step=progress.step,
            learning_rate=rate,
            loss=loss.total,
            fvu=loss.fvu,
            l0=loss.l0,
            dead_features=dead_F.sum(),
        )

    def _update(self, total: Tensor) -> None:
        """The optimiser's step, unless the loss is no number."""
        not_finite = ~torch.isfinite(total)
        if self.device.type == "cpu":
            if bool(not_finite):
                raise self._failed()
        else:  # the fused kernel leaves weights and moments alone where found_inf is set: no wait for the host
            self._not_finite |= not_finite
            self.optimizer.found_inf = self._not_finite.float().reshape(1)  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.sae.before_step()
        self.optimizer.step()
        self.sae.after_step()

    def check(self) -> None:
        """Raises Failed (NON_FINITE_LOSS) where a loss was no number; call it now and then on a GPU."""
        if bool(self._not_finite):
            raise self._failed()

    def _resample(self, x_BD: Tensor, target_BD: Tensor) -> None:
        """Lets dead features of penalised architectures start anew, once per `dead_after` tokens."""
        progress = self.progress
        if self.sae.shape.architecture not in PENALISED or progress.tokens - progress.resampled_at < self.dead_after:
            return
        progress.resampled_at = progress.tokens
        if progress.tokens < _RESAMPLED_UNTIL * self.total_tokens:
            dead_F = self.since_fired_F > self.dead_after
            resample(self.sae, self.optimizer, x_BD, target_BD, dead_F, seed=self.seed + progress.step)
            self.since_fired_F[dead_F] = 0

    def finish_epoch(self) -> float:
        """Closes the epoch, whole or not, and returns its mean current_loss."""
        progress = self.progress
        mean = self.epoch_loss_sum() / max(progress.epoch_tokens, 1)
        progress.epoch_losses.append(mean)
        progress.epoch, progress.block = progress.epoch + 1, 0
        progress.epoch_loss_sum, progress.epoch_tokens = 0.0, 0
        return mean

    def epoch_loss_sum(self) -> float:
        """Sum of current_loss times tokens in this epoch; kept in the progress from here on."""
        self.progress.epoch_loss_sum += float(self._loss_sum)
        self._loss_sum.zero_()
        return self.progress.epoch_loss_sum

    def folded(self) -> Sae:
        """The SAE as it is saved: in its inference form, on the CPU, for raw activations."""
        source = self.source or Normalisation.identity(self.sae.shape.d_in)
        target = self.target or Normalisation.identity(self.sae.shape.d_out)
        folded = self.sae.cpu().folded(source, target)
        return folded.eval().requires_grad_(requires_grad=False)

    def _target(self, target_ND: Tensor) -> Tensor:
        if self.target is None:
            raise ValueError("prepare was not called")
        return self.target.apply(target_ND)

    def _failed(self) -> Failed:
        rate = self.optimizer.param_groups[0]["lr"]
        return Failed(
            f"The loss became NaN or infinite at step {self.progress.step + 1}; nothing was updated with it. Lower "
            "learning_rate, or use dtype float32.",
            reason="NON_FINITE_LOSS",
            facts={"step": self.progress.step + 1, "learning_rate": rate},
        )


def rate_factor(before: float, after: float) -> float:
    """Share of the peak rate in a step between two shares of the tokens.

    Linear warm-up over 5 %, by the end of the step: a run of few steps does not lose its first. Linear
    decay in the last 20 %, by its start.
    """
    return max(1e-3, min(1.0, after / _WARM_UP, (1.0 - before) / _DECAY))


def _check(x_ND: Tensor, width: int, what: str) -> None:
    """Raises InvalidInput for activations of another shape, or that hold NaN or infinity."""
    if x_ND.dim() != 2 or x_ND.shape[1] != width or not len(x_ND):
        raise InvalidInput(
            f"The {what} activations have shape {tuple(x_ND.shape)}; expected are rows of width {width}. "
            "Bring one row a token, from the hook that the SAE is made for.",
            reason="ACTIVATIONS_INVALID",
            facts={"shape": str(tuple(x_ND.shape)), "width": width},
        )
    # A sum is NaN or infinite where an element is; only then is it worth looking for the place.
    if not bool(torch.isfinite(x_ND.sum(dtype=torch.float64))):
        bad_N = ~torch.isfinite(x_ND).all(1)
        if bool(bad_N.any()):
            row = int(torch.nonzero(bad_N)[0])
            raise InvalidInput(
                f"{int(bad_N.sum())} of {len(x_ND)} {what} activations hold NaN or infinity, the first in row {row}. "
                "Use dtype float32 for the model, or another layer.",
                reason="ACTIVATIONS_INVALID",
                facts={"rows": int(bad_N.sum()), "first_row": row},
            )
