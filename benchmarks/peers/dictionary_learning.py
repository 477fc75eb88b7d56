"""dictionary_learning's own trainSAE on given activations; run by the interpreter of an environment that has it.

    ENV/bin/python -m benchmarks.peers.dictionary_learning --acts FILE.npy --out FILE.safetensors

Its warm-up of 1,000 steps is longer than a short run and is refused by the library itself, so it is
a share of the steps here; so is the step from which the threshold of BatchTopK is followed.
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

ARCHITECTURES = ("topk", "batchtopk", "standard")
_USUAL_STEPS = 1000


def trainer_config(given: argparse.Namespace, d_in: int, steps: int) -> dict[str, Any]:
    """The library's defaults but for width, sparsity, schedule and what `given` sets."""
    from dictionary_learning import trainers

    warm_up = min(_USUAL_STEPS, round(given.warm_up * steps))
    base = {"steps": steps, "activation_dim": d_in, "dict_size": given.width, "lr": given.lr, "seed": given.seed}
    base |= {"layer": 0, "lm_name": "given activations", "device": given.device, "warmup_steps": warm_up}
    if given.arch == "standard":
        penalty = {} if given.sparsity is None else {"l1_penalty": given.sparsity}
        return base | penalty | {"trainer": trainers.StandardTrainer, "sparsity_warmup_steps": 2 * warm_up or None}
    kind = trainers.TopKTrainer if given.arch == "topk" else trainers.BatchTopKTrainer
    return base | {"trainer": kind, "k": given.k, "threshold_start_step": min(_USUAL_STEPS, steps // 2)}


def train(given: argparse.Namespace, x_ND: torch.Tensor, folder: str) -> tuple[dict[str, Any], common.Clock]:
    """Runs trainSAE on batches from memory; the state dict as it is read back from the disk."""
    from dictionary_learning.training import trainSAE

    clock = common.clock_for(given.device)
    steps = len(x_ND) // given.batch
    trainSAE(
        data=clock.batches(x_ND, given.batch),
        trainer_configs=[trainer_config(given, x_ND.shape[1], steps)],
        steps=steps,
        save_dir=folder,
        normalize_activations=False,
        device=given.device,
    )
    return torch.load(Path(folder) / "trainer_0" / "ae.pt", weights_only=True), clock


def neutral(given: argparse.Namespace, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header of a state dict of AutoEncoderTopK, BatchTopKSAE or AutoEncoder."""
    b_dec = state["bias"] if given.arch == "standard" else state["b_dec"]
    tensors = {"W_enc": state["encoder.weight"], "b_enc": state["encoder.bias"], "W_dec": state["decoder.weight"].T}
    tensors |= {"b_dec": b_dec}
    kind = {"topk": "topk", "batchtopk": "threshold", "standard": "relu"}[given.arch]
    header = {"origin": "dictionary-learning", "activation": kind, "k": given.k, "subtract_b_dec": True}
    if kind == "threshold":
        tensors["threshold"] = state["threshold"].reshape(1).expand(given.width)
    return tensors, header | {"architecture": given.arch, "trained_as": given.arch}


def own_dictionary(given: argparse.Namespace, state: dict[str, Any]) -> Any:
    """The library's class with the trained weights, on the CPU."""
    from dictionary_learning.dictionary import AutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    F, D = state["encoder.weight"].shape
    if given.arch == "standard":
        made = AutoEncoder(D, F)
    else:
        made = (AutoEncoderTopK if given.arch == "topk" else BatchTopKSAE)(D, F, given.k)
    made.load_state_dict(state)
    return made


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports."""
    parser = common.parser(ARCHITECTURES)
    parser.add_argument("--warm-up", type=float, default=0.05, help="share of the steps")
    given = parser.parse_args(argv)
    x_ND = torch.from_numpy(common.training_rows(given)).to(given.device)
    with tempfile.TemporaryDirectory() as folder:
        state, clock = train(given, x_ND, folder)
    figures = clock.figures(given.batch) | {"peak_rss_mb": common.peak_rss_mb()} | common.peak_gpu_mb(given.device)
    if given.out:
        tensors, header = neutral(given, state)
        plain = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        common.write_neutral(given.out, plain, header)
        x_BD = x_ND[: common.VERIFIED_ROWS].cpu()
        common.verify(given.out, x_BD, own_dictionary(given, state)(x_BD))
    common.report(figures | {"versions": {n: version(n) for n in ("dictionary-learning", "torch")}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
