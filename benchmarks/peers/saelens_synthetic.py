"""SAELens' synthetic model: rows with known features, and its own measure of how well an SAE found them.

ENV/bin/python -m benchmarks.peers.saelens_synthetic make --acts FILE.npy --features FILE.npy --rows 1100000
ENV/bin/python -m benchmarks.peers.saelens_synthetic measure --sae FILE.safetensors --features FILE.npy
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

_ROWS_A_CALL = 8192


def make(given: argparse.Namespace) -> dict[str, object]:
    """Writes rows and true directions; SAELens' defaults (Zipfian firing, a bias) but for sizes and spread."""
    from sae_lens.synthetic import SyntheticModel, SyntheticModelConfig

    torch.manual_seed(given.seed)
    config = SyntheticModelConfig(
        num_features=given.true_features, hidden_dim=given.d_in, std_firing_magnitudes=given.spread, seed=given.seed
    )
    model = SyntheticModel(config)
    np.save(given.features, model.feature_dict.feature_vectors.detach().float().numpy())
    rows = np.lib.format.open_memmap(given.acts, "w+", np.float32, (given.rows, given.d_in))
    active = 0
    for first in range(0, given.rows, _ROWS_A_CALL):
        x_BD, f_BF = model.sample_with_features(min(_ROWS_A_CALL, given.rows - first))
        rows[first : first + len(x_BD)] = x_BD.float().numpy()
        active += int((f_BF > 0).sum())
    rows.flush()
    return {"true_l0": active / given.rows, "versions": {"sae-lens": version("sae-lens")}}


def measure(given: argparse.Namespace) -> dict[str, object]:
    """How well decoder directions are true features.

    `matched`: SAELens' mean_correlation_coefficient (one-to-one matching); `largest`: mean over true
    features of the largest absolute cosine with any decoder direction.
    """
    from sae_lens.synthetic import cosine_similarities, mean_correlation_coefficient
    from safetensors.torch import load_file

    W_dec_FD = load_file(given.sae)["W_dec"]
    true_GD = torch.from_numpy(np.load(given.features))
    largest_G = cosine_similarities(W_dec_FD, true_GD).abs().max(dim=0).values
    return {"matched": mean_correlation_coefficient(W_dec_FD, true_GD), "largest": float(largest_G.mean())}


def main() -> int:
    """One of the two; prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making, measuring = verbs.add_parser("make"), verbs.add_parser("measure")
    making.add_argument("--acts", type=Path, required=True)
    making.add_argument("--rows", type=int, required=True)
    making.add_argument("--true-features", type=int, required=True)
    making.add_argument("--d-in", type=int, required=True)
    making.add_argument("--spread", type=float, default=0.1, help="standard deviation of a feature's magnitude")
    making.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--sae", type=Path, required=True)
    for verb in (making, measuring):
        verb.add_argument("--features", type=Path, required=True)
    given = parser.parse_args()
    print(json.dumps(make(given) if given.verb == "make" else measure(given)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
