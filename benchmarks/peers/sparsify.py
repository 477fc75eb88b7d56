"""sparsify's own Trainer on given activations; run by the interpreter of an environment that has it.

    ENV/bin/python -m benchmarks.peers.sparsify --acts FILE.npy --out FILE.safetensors

Its Trainer reads activations with a hook on a language model. Here the model is a stand-in that
hands out the rows of the file without computing anything, so that the loop is the library's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import common

ARCHITECTURES = ("topk",)


class Rows(nn.Module):
    """A module whose output is a view of the rows first..last of a table."""

    def __init__(self, x_ND: Tensor) -> None:
        super().__init__()
        self.x_ND = x_ND

    def forward(self, ids_1B: Tensor) -> Tensor:
        """(1, B, D)."""
        first = int(ids_1B[0, 0])
        return self.x_ND[first : first + ids_1B.shape[1]].unsqueeze(0)


class Model(nn.Module):
    """What sparsify's Trainer wants of a language model."""

    def __init__(self, x_ND: Tensor, clock: common.Clock) -> None:
        super().__init__()
        self.rows = Rows(x_ND)
        self.clock: common.Clock | None = None
        self.dummy_inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}
        self.device = x_ND.device
        self._clock = clock

    @property
    def base_model(self) -> nn.Module:
        """The module under which hook points are named."""
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        """A step of the trainer begins with this call; the one before training is not counted."""
        if self.clock:
            self.clock.mark()
        found: Tensor = self.rows(input_ids)
        return found

    def start(self) -> None:
        """From here on calls are steps."""
        self.clock = self._clock


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One sequence a batch: the numbers of its rows."""

    def __init__(self, steps: int, batch: int) -> None:
        self.ids_NB = torch.arange(steps * batch).reshape(steps, batch)

    def __len__(self) -> int:
        return len(self.ids_NB)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids_NB[index]}


def train(given: argparse.Namespace, x_ND: Tensor, folder: str) -> tuple[Any, common.Clock]:
    """Trainer.fit without its checkpoints on the clock; the SAE as it is read back from the disk."""
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

    clock = common.clock_for(given.device)
    model = Model(x_ND, clock)
    config = TrainConfig(
        SparseCoderConfig(num_latents=given.width, k=given.k),
        batch_size=1,
        lr=given.lr,
        optimizer=given.optimizer,
        lr_warmup_steps=given.warm_up_steps,
        auxk_alpha=given.auxk_alpha,
        dead_feature_threshold=given.dead_tokens,
        hookpoints=["rows"],
        init_seeds=[given.seed],
        log_to_wandb=False,
        save_every=1 << 30,
        save_dir=folder,
        run_name="run",
    )
    trainer = Trainer(config, Batches(len(x_ND) // given.batch, given.batch), model)
    save, trainer.save = trainer.save, clock.stop
    model.start()
    trainer.fit()
    save()
    return SparseCoder.load_from_disk(Path(folder) / "run" / "rows"), clock


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports."""
    parser = common.parser(ARCHITECTURES)
    parser.add_argument("--optimizer", choices=("signum", "adam", "muon"), default="signum")
    parser.add_argument("--warm-up-steps", type=int, default=0, help="adam only")
    parser.add_argument("--auxk-alpha", type=float, default=0.0)
    parser.add_argument("--dead-tokens", type=int, default=10_000_000, help="tokens until a feature is dead")
    given = parser.parse_args(argv)
    x_ND = torch.from_numpy(common.training_rows(given)).to(given.device)
    with tempfile.TemporaryDirectory() as folder:
        sae, clock = train(given, x_ND, folder)
    figures = clock.figures(given.batch) | {"peak_rss_mb": common.peak_rss_mb()} | common.peak_gpu_mb(given.device)
    if given.out:
        tensors = {"W_enc": sae.encoder.weight, "b_enc": sae.encoder.bias, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
        header = {"origin": "eai-sparsify", "activation": "topk", "k": given.k, "subtract_b_dec": True}
        plain = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        common.write_neutral(given.out, plain, header | {"architecture": "topk", "trained_as": given.arch})
        x_BD = x_ND[: common.VERIFIED_ROWS].cpu()
        common.verify(given.out, x_BD, sae(x_BD).sae_out)
    common.report(figures | {"versions": {n: version(n) for n in ("eai-sparsify", "torch")}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
