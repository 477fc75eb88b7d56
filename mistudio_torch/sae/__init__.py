"""Sparse autoencoders: one file an architecture, one registry line each.

`base` holds what all share, `sparse` the fast step of the top-k family with its kernels, `dense`
the products of the others. Shapes: B tokens, D widths, F features, N non-zero codes.
"""

from __future__ import annotations

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


__all__ = ["ARCHITECTURES", "Sae", "SaeShape", "SparseCodes", "StepLoss", "make_sae"]
