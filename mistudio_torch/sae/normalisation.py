"""Centre and scale of activations: measured once, applied to every batch, folded into the saved weights.

Robust on purpose: the centre is the geometric median and tokens with huge norms (attention sinks)
take no part, so that a few of them do not set the scale of all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SINK_FACTOR = 10.0
"""A token whose distance from the centre exceeds this many medians is an outlier."""
_MEDIAN_ROWS = 8192
_MEDIAN_STEPS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """x_n = (x - mean_D) * scale, so that x_n is centred and E||x_n||^2 = D."""

    mean_D: Tensor
    """float32 (D,): the centre."""
    scale: float
    """Factor after centring."""

    @staticmethod
    def of(x_BD: Tensor) -> Normalisation:
        """Measured in float64 on a sample of activations."""
        centre_D = geometric_median(x_BD)
        distance_B = (x_BD.double() - centre_D).norm(dim=1)
        usual_BD = x_BD[distance_B <= _SINK_FACTOR * distance_B.median()].double()
        mean_D = usual_BD.mean(0)
        variance = float((usual_BD - mean_D).square().sum(1).mean())
        scale = math.sqrt(x_BD.shape[1] / variance) if variance > 0 else 1.0
        return Normalisation(mean_D=mean_D.float(), scale=float(torch.tensor(scale, dtype=torch.float32)))

    @staticmethod
    def identity(width: int) -> Normalisation:
        """Leaves activations as they are."""
        return Normalisation(mean_D=torch.zeros(width), scale=1.0)

    def apply(self, x_BD: Tensor) -> Tensor:
        """x_n of x, on x's device."""
        return (x_BD - self.mean_D.to(x_BD.device)) * self.scale


def geometric_median(x_BD: Tensor) -> Tensor:
    """The point of least summed distance to the rows (at most 8,192, evenly spaced), float64 (D,).

    Weiszfeld's iteration from the mean; it stops once it moves by less than 1e-6 of the mean distance.
    """
    rows_RD = x_BD[:: max(1, len(x_BD) // _MEDIAN_ROWS)].double()
    centre_D = rows_RD.mean(0)
    for _ in range(_MEDIAN_STEPS):
        distance_R = (rows_RD - centre_D).norm(dim=1)
        weight_R = 1.0 / distance_R.clamp_min(1e-12)
        moved_D = (weight_R @ rows_RD) / weight_R.sum()
        step = float((moved_D - centre_D).norm())
        centre_D = moved_D
        if step <= 1e-6 * float(distance_R.mean()):
            break
    return centre_D
