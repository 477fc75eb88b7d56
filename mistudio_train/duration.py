"""How long a run may take: counted products over the device's matrix speed, and where that speed is from.

A prediction of the order of minutes or hours, not a measurement. The counts are of products that an
implementation cannot leave out; `SHARE` says how much of the peak runs reach in practice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mistudio_train.cards import tabulated_peak
from mistudio_train.plan_parts import TOP_K_FAMILY, SaeSize, Workload, block_parameters

SHARE = 0.4
"""Share of the peak of matrix products that harvest and training are assumed to reach together."""
EXTRA_PASSES = 1.1
"""Model passes beside those of training: held-out text is a tenth, and codes are written of every token once."""
_SIDES = (512, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """The matrix speed that a prediction counts with."""

    peak_flops: float
    """Flop/s of matrix products."""
    source: str
    """Where the figure is from, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """A predicted time."""

    seconds_per_million_tokens: float
    """Harvest and training of a million tokens, one pass."""
    seconds: float | None
    """The whole run; None without a token budget: it depends on the corpus."""
    basis: str
    """What was counted and which speed was taken, in words."""


def harvest_flops(w: Workload) -> float:
    """Products of one token through blocks 0..layer: 2 a weight, and 4 T D a block for attention."""
    _, linear = block_parameters(w.facts)
    return (w.layer + 1) * (2.0 * linear + 4.0 * w.length * w.facts.hidden_size)


def step_flops(sae: SaeSize) -> float:
    """Products of one token through a training step.

    Top-k family: the encoder is dense (2 d_in F), all else touches K features (K (6 d_out + 2 d_in)).
    Dense architectures: encoder, decoder and three products of the backward pass.
    """
    if sae.architecture in TOP_K_FAMILY:
        return 2.0 * sae.d_in * sae.d_sae + sae.k * (6.0 * sae.d_out + 2.0 * sae.d_in)
    return sae.d_sae * (4.0 * sae.d_in + 6.0 * sae.d_out)


def predict(w: Workload, speed: Speed, *, token_budget: int = 0) -> Duration:
    """The time of a run at a speed."""
    train = harvest_flops(w) + sum(step_flops(s) for s in w.saes)
    rate = SHARE * speed.peak_flops
    after = EXTRA_PASSES * (harvest_flops(w) + sum(2.0 * s.d_in * s.d_sae for s in w.saes))
    return Duration(
        seconds_per_million_tokens=1e6 * train / rate,
        seconds=token_budget * (train + after) / rate if token_budget else None,
        basis=(
            f"{train / 1e9:.3g} Gflop of products a token in harvest and training at {SHARE:.0%} of "
            f"{speed.peak_flops / 1e12:.3g} Tflop/s ({speed.source}), and codes of as many tokens written afterwards"
        ),
    )


def speed_of_gpu(name: str) -> Speed | None:
    """The tabulated speed of a GPU; None for one that is not in the table."""
    peak = tabulated_peak(name)
    return None if peak is None else Speed(peak_flops=peak, source=f"the maker's figure for {name}")


def speed_of_host() -> Speed:
    """The speed of this machine's processor, measured on first use."""
    return Speed(peak_flops=_host_peak(), source="float32 products measured on this machine's processor")


@lru_cache(maxsize=1)
def _host_peak(clock: Callable[[], float] = time.perf_counter) -> float:
    """Best of a few numpy products, about a tenth of a second."""
    best = 0.0
    for side in _SIDES:
        a = np.random.default_rng(0).standard_normal((side, side), np.float32)
        for _ in range(2):
            began = clock()
            a @ a
            best = max(best, 2.0 * side**3 / max(clock() - began, 1e-9))
    return best
