"""miStudio's own trainer on given activations, with the options and the report of the other contestants.

.venv/bin/python -m benchmarks.ours --acts FILE.npy --out FILE.safetensors
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mistudio_torch  # noqa: F401  before torch: it says how threads wait
from benchmarks.peers import common

if TYPE_CHECKING:
    from torch import Tensor

    from mistudio_torch.sae import Sae

_BLOCK_ROWS = 32_768
"""Rows that are normalised at a time, as a training job does with what it harvested."""


def train(given: argparse.Namespace, x_ND: Tensor) -> tuple[Sae, common.Clock]:
    """The one place that calls the trainer, as a job does: every row once, the trained SAE as it is saved."""
    import torch

    from mistudio_torch.cpu import keep_memory
    from mistudio_torch.sae import SaeShape
    from mistudio_train.trainer import Trainer

    keep_memory()
    penalty = {} if given.sparsity is None else {"sparsity_coeff": given.sparsity}
    shape = SaeShape(architecture=given.arch, d_in=x_ND.shape[1], d_sae=given.width, k=given.k, **penalty)
    trainer = Trainer(
        shape, seed=given.seed, learning_rate=given.lr, total_tokens=len(x_ND), device=torch.device(given.device)
    )
    clock = common.clock_for(given.device)
    block = max(1, _BLOCK_ROWS // given.batch) * given.batch
    for first in range(0, len(x_ND), given.batch):
        clock.mark()
        if first % block == 0:
            block_ND, _ = trainer.prepare(x_ND[first : first + block], normalize=True)
        trainer.step(block_ND[first % block : first % block + given.batch])
    trainer.check()
    clock.stop()
    return trainer.folded(), clock


def save(sae: Sae, x_BD: Tensor, given: argparse.Namespace) -> None:
    """The files that a job commits, then the neutral one made of them."""
    import torch

    from mistudio_torch.formats.saelens import save_sae

    with tempfile.TemporaryDirectory() as folder:
        never_F = torch.zeros(sae.shape.d_sae)
        save_sae(sae, Path(folder).joinpath, metadata={}, firing_frequency_F=never_F)
        tensors, header = common.from_saelens(Path(folder))
    header |= {"origin": "mistudio", "trained_as": given.arch, "k": given.k}
    common.write_neutral(given.out, tensors, header)
    common.verify(given.out, x_BD, sae.decode(sae.encode(x_BD), len(x_BD)))


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Trains and saves; speed and memory."""
    import torch

    x_ND = torch.from_numpy(common.training_rows(given)).to(given.device)
    sae, clock = train(given, x_ND)
    figures: dict[str, Any] = clock.figures(given.batch)
    figures |= {"peak_rss_mb": common.peak_rss_mb()} | common.peak_gpu_mb(given.device)
    if given.out:
        save(sae, x_ND[: common.VERIFIED_ROWS].cpu(), given)
    return figures | {"versions": {n: version(n) for n in ("mistudio", "torch")}}


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="topk", help="architecture, by its name in the registry")
    common.options(parser)
    common.report(measured(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
