"""What training uses of the machine: the measured peak of matrix products and the share that was useful.

The peak is measured here, by products of square matrices, not read from a data sheet. Formulas stand in
docs/metrics.md. Reads the clock; nothing of it enters a numeric result.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from mistudio_torch import cpu

Product = Callable[[Tensor, Tensor], Tensor]

_SIDES = (256, 512, 1024, 2048, 4096, 8192)
_GROWTH = 8
"""A side twice as long takes eight times as long."""
_SIDE_S, _MEASURE_S = 0.06, 0.35
"""Seconds for one size, and for all."""
_LEAST_S, _MOST_REPEATS = 0.003, 200
"""Products are timed together for about as long: shorter times are those of clocks and launches."""


def matrix_peak(device: str | torch.device, dtype: torch.dtype) -> float:
    """Fastest matrix product seen on `device`, flop/s, with the present number of threads; cached.

    Square matrices from 256 to 8192 wide, as far as 0.35 s go; the best product counts. float32 on CUDA is
    measured at the precision that torch is set to (TF32 or not).
    """
    place = torch.device(device)
    precision = torch.get_float32_matmul_precision() if place.type == "cuda" else ""
    return _measured_peak(str(place), dtype, torch.get_num_threads(), precision)


@lru_cache(maxsize=32)
def _measured_peak(device: str, dtype: torch.dtype, _threads: int, _precision: str) -> float:
    """See matrix_peak; whatever changes the answer is an argument."""
    products = _products(device, dtype)
    # Random numbers: products of constant matrices draw less power and run faster than any real one.
    block = torch.randn(_SIDES[0], _SIDES[0], generator=torch.Generator().manual_seed(0)).to(dtype).to(device)
    end = time.perf_counter() + _MEASURE_S
    best = 0.0
    for side in _SIDES:
        a, b = (block.repeat(side // _SIDES[0], side // _SIDES[0]) for _ in range(2))
        # The least of several: first products start threads and choose kernels, any may be interrupted.
        seconds, stop = math.inf, min(time.perf_counter() + _SIDE_S, end)
        guess = _seconds(products[0], a, b, 1)
        for product in itertools.cycle(products):
            repeats = min(max(1, math.ceil(_LEAST_S / guess)), _MOST_REPEATS)
            guess = seconds = min(seconds, _seconds(product, a, b, repeats))
            if time.perf_counter() + repeats * seconds > stop:
                break
        best = max(best, 2.0 * side**3 / seconds)
        if time.perf_counter() + 2 * _GROWTH * seconds > end:
            break
    return best


def _products(device: str, dtype: torch.dtype) -> list[Product]:
    """The ways to multiply that the rest of the package uses."""
    if dtype == torch.float32 and device.startswith("cpu") and cpu.has_fast_linear():
        return [torch.mm, cpu.linear]
    return [torch.mm]


@torch.no_grad()
def _seconds(product: Product, a: Tensor, b: Tensor, repeats: int) -> float:
    """Time of one product, the mean of several in a row, to their end on the device."""
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    start = time.perf_counter()
    for _ in range(repeats):
        product(a, b)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return max((time.perf_counter() - start) / repeats, 1e-9)


def useful_flops(tokens: float, *, d_in: int, d_out: int, d_sae: int, l0: float) -> float:
    """Flops of training that no implementation can leave out: tokens * (2 d_in F + l0 (6 d_out + 2 d_in)).

    The encoder product is dense; reconstruction, gradient of the codes and of the decoder (2 d_out each)
    and gradient of the encoder (2 d_in) touch the `l0` active features of a token alone. Masked parts of
    a dense implementation, auxiliary losses, the optimiser and the language model count nothing.
    """
    return tokens * (2.0 * d_in * d_sae + l0 * (6.0 * d_out + 2.0 * d_in))


def peak_share(flops: float, *, seconds: float, peak: float) -> float | None:
    """Useful flops over peak * seconds: 1 would be nothing but products at the measured peak.

    None where it comes out above 1: other work on the machine disturbed the measurement of the peak.
    """
    share = flops / max(peak * seconds, 1e-30)
    return share if share <= 1.0 else None
