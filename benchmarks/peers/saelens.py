"""SAELens' own SAETrainer on given activations; run by the interpreter of an environment that has it.

ENV/bin/python -m benchmarks.peers.saelens --acts FILE.npy --out FILE.safetensors
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import common

ARCHITECTURES = ("topk", "batchtopk", "standard", "jumprelu", "gated", "matryoshka")


def training_sae(given: argparse.Namespace, d_in: int) -> Any:
    """An untrained SAE with SAELens' defaults but for width, sparsity and what `given` sets."""
    import sae_lens

    base = {"d_in": d_in, "d_sae": given.width, "device": given.device}
    penalty = {} if given.sparsity is None else {"coefficient": given.sparsity}
    if given.arch == "topk":
        made = sae_lens.TopKTrainingSAEConfig(**base, k=given.k, use_sparse_activations=given.sparse)
        return sae_lens.TopKTrainingSAE(made)
    if given.arch == "batchtopk":
        return sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**base, k=given.k))
    if given.arch == "matryoshka":
        widths = [given.width // 16, given.width // 8, given.width // 4, given.width // 2, given.width]
        config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(**base, k=given.k, matryoshka_widths=widths)
        return sae_lens.MatryoshkaBatchTopKTrainingSAE(config)
    if given.arch == "standard":
        l1 = {f"l1_{name}": value for name, value in penalty.items()}
        return sae_lens.StandardTrainingSAE(sae_lens.StandardTrainingSAEConfig(**base, **l1))
    if given.arch == "gated":
        l1 = {f"l1_{name}": value for name, value in penalty.items()}
        return sae_lens.GatedTrainingSAE(sae_lens.GatedTrainingSAEConfig(**base, **l1))
    l0 = {f"l0_{name}": value for name, value in penalty.items()}
    return sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**base, **l0))


def train(given: argparse.Namespace, x_ND: torch.Tensor) -> tuple[Any, common.Clock]:
    """SAETrainer.fit, batches taken from memory; no logging, no checkpoints."""
    from sae_lens import SAETrainer
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    torch.manual_seed(given.seed)
    clock = common.clock_for(given.device)
    config = SAETrainerConfig(
        total_training_samples=len(x_ND),
        train_batch_size_samples=given.batch,
        lr=given.lr,
        lr_end=given.lr / 10,
        lr_warm_up_steps=given.warm_up_steps,
        lr_decay_steps=given.decay_steps,
        device=given.device,
        dead_feature_window=given.dead_window,
        logger=LoggingConfig(log_to_wandb=False),
    )
    sae = training_sae(given, x_ND.shape[1])
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=clock.batches(x_ND, given.batch))
    trained = trainer.fit()
    clock.stop()
    return trained, clock


def save(given: argparse.Namespace, sae: Any, x_BD: torch.Tensor) -> None:
    """SAELens' own files, then the neutral one made of them."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        tensors, header = common.from_saelens(Path(folder))
        own_BD = SAE.load_from_disk(folder, device="cpu")(x_BD)
    common.write_neutral(given.out, tensors, header | {"origin": "sae-lens", "trained_as": given.arch, "k": given.k})
    common.verify(given.out, x_BD, own_BD)


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports."""
    parser = common.parser(ARCHITECTURES)
    parser.add_argument("--dead-window", type=int, default=1000, help="steps without firing until a feature is dead")
    parser.add_argument("--warm-up-steps", type=int, default=0)
    parser.add_argument("--decay-steps", type=int, default=0)
    parser.add_argument("--sparse", action="store_true", help="sparse activations in the decoder")
    given = parser.parse_args(argv)
    x_ND = torch.from_numpy(common.training_rows(given)).to(given.device)
    sae, clock = train(given, x_ND)
    figures = clock.figures(given.batch) | {"peak_rss_mb": common.peak_rss_mb()} | common.peak_gpu_mb(given.device)
    if given.out:
        save(given, sae, x_ND[: common.VERIFIED_ROWS].cpu())
    common.report(figures | {"versions": {n: version(n) for n in ("sae-lens", "torch")}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
