"""Sparse autoencoders: one file an architecture, one registry line each.

`base` holds what all share, `topk` and `standard` the architectures, `sparse_ops` the fast paths,
`saelens` the files. Shapes: B tokens, D model width, F features, K active features, N non-zeros.
"""

from __future__ import annotations

from mistudio_core.errors import Unsupported
from mistudio_torch.sae.base import Sae, SaeShape, SparseCodes, StepLoss
from mistudio_torch.sae.standard import StandardSae
from mistudio_torch.sae.topk import TopKSae

ARCHITECTURES: dict[str, type[Sae]] = {
    "topk": TopKSae,
    "standard": StandardSae,
}
"""Every architecture that can be trained, by its SAELens name."""


def make_sae(shape: SaeShape) -> Sae:
    """An untrained SAE with zero weights; `initialise(seed)` fills them. Raises Unsupported."""
    architecture = ARCHITECTURES.get(shape.architecture)
    if architecture is None:
        known = " or ".join(sorted(ARCHITECTURES))
        raise Unsupported(f"architecture {shape.architecture!r}", why=f"known are {known}", instead=f"Use {known}.")
    return architecture(shape)


__all__ = ["ARCHITECTURES", "Sae", "SaeShape", "SparseCodes", "StandardSae", "StepLoss", "TopKSae", "make_sae"]
