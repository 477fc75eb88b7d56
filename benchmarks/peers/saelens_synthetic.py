"""SAELens' synthetic model: rows with known features, and its own measure of how well an SAE found them.

ENV/bin/python -m benchmarks.peers.saelens_synthetic make --acts FILE.npy --features FILE.npy --rows 1100000
ENV/bin/python -m benchmarks.peers.saelens_synthetic measure --folder FOLDER --features FILE.npy
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

_ROWS_A_CALL = 8192
_SPREAD = 0.1
"""Standard deviation of a feature's magnitude, whose mean is 1, where features are plain."""


def _plain(given: argparse.Namespace) -> Any:
    """SAELens' defaults (features that fire independently, Zipfian, a bias) but for sizes and spread."""
    from sae_lens.synthetic import SyntheticModelConfig

    return SyntheticModelConfig(
        num_features=given.true_features, hidden_dim=given.d_in, std_firing_magnitudes=_SPREAD, seed=given.seed
    )


def _tree(given: argparse.Namespace) -> Any:
    """The settings of SAELens' SynthSAEBench-16k with its numbers of features and trees divided alike.

    Features are children of others, exclude each other and are correlated. The rarest fires on 1 row
    in 200 instead of 1 in 2,000, since there are hundreds of times fewer rows.
    """
    from sae_lens import synthetic

    return synthetic.SyntheticModelConfig(
        num_features=given.true_features,
        hidden_dim=given.d_in,
        firing_probability=synthetic.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-3),
        hierarchy=synthetic.HierarchyConfig(
            total_root_nodes=max(1, given.true_features // 128),
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            mutually_exclusive_min_depth=0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        orthogonalization=synthetic.OrthogonalizationConfig(num_steps=100, lr=3e-4),
        correlation=synthetic.LowRankCorrelationConfig(rank=min(25, given.true_features // 4), correlation_scale=0.1),
        mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
        std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        bias=0.5,
        seed=given.seed,
    )


KINDS = {"plain": _plain, "tree": _tree}
"""What the known features are like."""


def make(given: argparse.Namespace) -> dict[str, object]:
    """Writes rows and true directions."""
    from sae_lens.synthetic import SyntheticModel

    torch.manual_seed(given.seed)
    model = SyntheticModel(KINDS[given.kind](given))
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
    """How well decoder directions are true features, for every neutral file below a folder.

    `matched`: SAELens' mean_correlation_coefficient (one-to-one matching); `largest`: mean over true
    features of the largest absolute cosine with any decoder direction.
    """
    from sae_lens.synthetic import cosine_similarities, mean_correlation_coefficient
    from safetensors.torch import load_file

    true_GD = torch.from_numpy(np.load(given.features))
    found: dict[str, object] = {}
    for path in sorted(given.folder.rglob("*.safetensors")):
        W_dec_FD = load_file(path)["W_dec"]
        largest_G = cosine_similarities(W_dec_FD, true_GD).abs().max(dim=0).values
        matched = mean_correlation_coefficient(W_dec_FD, true_GD)
        found[path.relative_to(given.folder).as_posix()] = {
            "matched": round(matched, 5),
            "largest": round(float(largest_G.mean()), 5),
        }
    return found


def main() -> int:
    """One of the two; prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making, measuring = verbs.add_parser("make"), verbs.add_parser("measure")
    making.add_argument("--acts", type=Path, required=True)
    making.add_argument("--rows", type=int, required=True)
    making.add_argument("--true-features", type=int, required=True)
    making.add_argument("--d-in", type=int, required=True)
    making.add_argument("--kind", choices=sorted(KINDS), default="plain")
    making.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--folder", type=Path, required=True)
    for verb in (making, measuring):
        verb.add_argument("--features", type=Path, required=True)
    given = parser.parse_args()
    print(json.dumps(make(given) if given.verb == "make" else measure(given)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
