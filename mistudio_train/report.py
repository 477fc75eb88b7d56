"""What a training loop tells of itself: progress, figures, speed; and when a checkpoint is due.

Time is kept away from numerics: nothing here changes what is computed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mistudio_train.member import Member
from mistudio_train.run import Run
from mistudio_train.trainer import StepOutput

LOADED, TOKENISED, TRAINED, EVALUATED = 0.02, 0.05, 0.75, 0.80
"""Share of the job that is done after each stage."""
_FIGURES_EVERY_S = 0.2
"""Figures are read off the device at most this often: reading them makes a GPU wait."""
_EVERY_STEP = 512
"""Steps at first, of each of which the figures are read: short runs have whole curves."""


class Clock:
    """Training seconds, speed, and when a checkpoint is due."""

    def __init__(self, members: Sequence[Member], interval_s: float) -> None:
        """Starts now."""
        self._members = members
        self._interval = interval_s
        self._start = self._last = self._checkpoint = time.monotonic()
        self._tokens = self._done()

    def tokens_per_second(self) -> float:
        """Tokens that all SAEs together trained on in this attempt, a second, harvest included."""
        return (self._done() - self._tokens) / max(time.monotonic() - self._start, 1e-9)

    def checkpoint_due(self) -> bool:
        """Whether the interval is over."""
        self.stop()
        return time.monotonic() - self._checkpoint >= self._interval

    def checkpointed(self) -> None:
        """A checkpoint was committed."""
        self._checkpoint = time.monotonic()

    def stop(self) -> None:
        """Adds the time since the last call to the training seconds."""
        now = time.monotonic()
        for member in self._members:
            member.trainer.progress.seconds += now - self._last
        self._last = now

    def _done(self) -> int:
        return sum(m.trainer.progress.tokens for m in self._members)


class Reporter:
    """Reports the steps of all SAEs of a job."""

    def __init__(self, run: Run, members: Sequence[Member], clock: Clock) -> None:
        """`clock` gives the speed."""
        self._run = run
        self._members = members
        self._clock = clock
        self._reported = 0.0

    def step(self, member: Member, out: StepOutput) -> None:
        """One step of one SAE; also the place where a cancel is noticed."""
        self._run.ctx.check_cancelled()
        progress = member.trainer.progress
        now = time.monotonic()
        if out.step > _EVERY_STEP and now - self._reported < _FIGURES_EVERY_S:
            return
        self._reported = now
        rate = self._clock.tokens_per_second()
        values = out.metrics() | {"tokens_per_second": rate}
        member.curves.add(out.step, progress.tokens, values, seconds=progress.step_seconds)
        self._tell(member, out.step, values, rate)

    def _tell(self, member: Member, step: int, values: dict[str, float], rate: float) -> None:
        progress, several = member.trainer.progress, len(self._members) > 1
        total = sum(m.trainer.total_tokens for m in self._members)
        done = sum(m.trainer.total_tokens if not m.active else m.trainer.progress.tokens for m in self._members)
        named = {f"{member.variant.name}.{k}": values[k] for k in ("current_loss", "l0")} if several else {}
        self._run.ctx.metrics(step, values | {"epoch": float(progress.epoch + 1)} | named)
        self._run.ctx.progress(
            "harvest and train",
            fraction=TOKENISED + (TRAINED - TOKENISED) * min(done / total, 1.0),
            current=done,
            total=total,
            unit="tokens",
            remaining_s=(total - done) / rate / (TRAINED - TOKENISED) if rate else None,
            message=f"{member.variant.name and member.variant.name + ': '}"
            f"Epoch {progress.epoch + 1}, step {step}, loss {values['current_loss']:.4f}",
        )
