"""Common GPUs as data: memory and matrix speed, for plans of machines that are not this one.

Figures are the makers' (dense bfloat16 or float16 products summed in float32, no sparsity); nothing
here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

_DRIVER_SHARE = 0.025
"""Share of a card that the driver keeps for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One kind of GPU."""

    name: str
    """Product."""
    gigabytes: int
    """Memory as it is sold, GiB."""
    peak_flops: float
    """Matrix products in bfloat16 (float16 before Ampere), flop/s."""

    @property
    def usable_bytes(self) -> int:
        """Memory that a program can have."""
        return round(self.gigabytes * 2**30 * (1 - _DRIVER_SHARE))


CARDS = (
    Card(name="GeForce RTX 4060", gigabytes=8, peak_flops=30e12),
    Card(name="GeForce RTX 3060", gigabytes=12, peak_flops=25e12),
    Card(name="GeForce RTX 4060 Ti", gigabytes=16, peak_flops=44e12),
    Card(name="GeForce RTX 3090", gigabytes=24, peak_flops=71e12),
    Card(name="A100 40GB", gigabytes=40, peak_flops=312e12),
    Card(name="RTX A6000", gigabytes=48, peak_flops=155e12),
    Card(name="A100 80GB", gigabytes=80, peak_flops=312e12),
    Card(name="H200", gigabytes=141, peak_flops=989e12),
)
"""One for each common size, the smallest first."""

_PEAKS = (
    ("H200", 989e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A6000", 155e12),
    ("A10", 125e12),
    ("V100", 112e12),
    ("T4", 65e12),
    ("4090", 165e12),
    ("4080", 97e12),
    ("4070", 58e12),
    ("4060 Ti", 44e12),
    ("4060", 30e12),
    ("3090", 71e12),
    ("3080", 60e12),
    ("3070", 41e12),
    ("3060", 25e12),
)
"""Part of a product name -> flop/s; the first that fits counts, so longer names stand first."""


def tabulated_peak(name: str) -> float | None:
    """Matrix speed of a GPU by its product name, flop/s; None for one that is not in the table."""
    return next((peak for part, peak in _PEAKS if part in name), None)
