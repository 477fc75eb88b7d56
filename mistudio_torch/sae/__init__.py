"""Sparse autoencoders: one file an architecture, one registry line each.

`base` holds what all share, `sparse` the fast step of the top-k family with its kernels, `dense`
the products of the others. Shapes: B tokens, D widths, F features, N non-zero codes.
"""

from __future__ import annotations

import functools

import torch

from mistudio_core.errors import Unsupported
from mistudio_torch.sae.base import Sae, SaeShape, SparseCodes, StepLoss
from mistudio_torch.sae.batchtopk import BatchTopKSae
from mistudio_torch.sae.gated import GatedSae
from mistudio_torch.sae.jumprelu import JumpReluSae
from mistudio_torch.sae.matryoshka import MatryoshkaSae
from mistudio_torch.sae.standard import StandardSae
from mistudio_torch.sae.topk import TopKSae

ARCHITECTURES: dict[str, type[Sae]] = {
    "standard": StandardSae,
    "topk": TopKSae,
    "batchtopk": BatchTopKSae,
    "jumprelu": JumpReluSae,
    "gated": GatedSae,
    "matryoshka": MatryoshkaSae,
}
"""Every architecture that can be trained, by its name in requests."""


def make_sae(shape: SaeShape) -> Sae:
    """An untrained SAE with zero weights; `initialise` fills them. Raises Unsupported."""
    architecture = ARCHITECTURES.get(shape.architecture)
    if architecture is None:
        known = " or ".join(sorted(ARCHITECTURES))
        raise Unsupported(f"architecture {shape.architecture!r}", why=f"known are {known}", instead=f"Use {known}.")
    return architecture(shape)


@functools.cache
def warm_up(architecture: str) -> None:
    """Imports and compiles what a step on the CPU needs, with a few tokens, so that the first real one is not slow."""
    sae = make_sae(SaeShape(architecture=architecture, d_in=8, d_sae=64, k=2))
    x_BD = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    sae.initialise(0, x_BD, x_BD)
    sae.backward(x_BD, x_BD, torch.zeros(64, dtype=torch.bool), 1.0)
    sae.before_step()
    sae.after_step()


__all__ = ["ARCHITECTURES", "Sae", "SaeShape", "SparseCodes", "StepLoss", "make_sae", "warm_up"]
