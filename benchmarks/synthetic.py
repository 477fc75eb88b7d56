"""Known features: SAELens' synthetic model makes rows of which every feature is known, and both train on them.

    python -m benchmarks.run synthetic --envs .peers

Same rows, width, batch, number of rows and L0 for both; each with its best of the learning rates. Top-k
architectures get k = the true L0; for the others the weight of the penalty is searched until the L0 on
held-out rows is the true one. How well the true features were found is SAELens' own measure.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, PEERS, Contestant, run_module, train_in_a_process

TOP_K = ("topk", "batchtopk", "matryoshka")
ARCHITECTURES = (*TOP_K, "standard", "jumprelu", "gated")
_START = {"SAELens": {"standard": 0.1, "gated": 0.1, "jumprelu": 0.01}, "miStudio": {}}
"""Where the search of the penalty's weight begins; 0.01 where nothing is said."""
_SEARCH_RUNS = 8
_CLOSE = 0.03
_HELDOUT_ROWS = 100_000


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    parser.add_argument("--envs", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--tokens", type=int, default=1_000_000, help="rows to train on")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--true-features", type=int, default=512)
    parser.add_argument("--width", type=int, help="features of the SAEs; default: the true number")
    parser.add_argument("--d-in", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(compare=True)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Every architecture with both contestants."""
    contestants = (OURS, PEERS["saelens"])
    python = PEERS["saelens"].python(given.envs)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        acts, features = folder / "acts.npy", folder / "features.npy"
        made = {"acts": acts, "features": features, "rows": given.tokens + _HELDOUT_ROWS, "seed": given.seed}
        sizes = {"true_features": given.true_features, "d_in": given.d_in}
        about = run_module(python, _verb("make"), "SAELens", made | sizes)
        width = given.width or given.true_features
        trial = _Trial(given=given, folder=folder, width=width, true_l0=about["true_l0"])
        runs = []
        for arch in given.arch:
            for lr in given.lrs:
                for contestant in contestants:
                    found = trial.best_at(contestant, arch, lr)
                    measured = {"sae": trial.out(contestant), "features": features}
                    found |= run_module(python, _verb("measure"), "SAELens", measured)
                    runs.append(found)
                    row = f"{contestant.name:10} {arch:10} lr {lr:g}: matched {found['matched']:.4f}, L0 {found['l0']}"
                    print(row, file=sys.stderr, flush=True)
    data = {"features": given.true_features, "d_in": given.d_in, "true_l0": round(about["true_l0"], 3), "width": width}
    data |= {"tokens": given.tokens // given.batch * given.batch, "batch": given.batch, "lrs": given.lrs}
    return {"data": data, "summary": summarise(runs), "runs": runs}


def _verb(name: str) -> tuple[str, str]:
    return ("benchmarks.peers.saelens_synthetic", name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """Trains one contestant at a learning rate, at the true L0."""

    given: argparse.Namespace
    folder: Path
    width: int
    true_l0: float

    def out(self, contestant: Contestant) -> Path:
        """Where its SAE lies."""
        return self.folder / f"{contestant.name}.safetensors"

    def best_at(self, contestant: Contestant, arch: str, lr: float) -> dict[str, Any]:
        """Figures of the SAE that is left in `out`."""

        def train(sparsity: float | None) -> dict[str, Any]:
            settings = {"acts": self.folder / "acts.npy", "arch": arch, "width": self.width, "lr": lr}
            settings |= {"k": max(1, round(self.true_l0)), "sparsity": sparsity, "batch": self.given.batch}
            settings |= {"tokens": self.given.tokens, "heldout_rows": _HELDOUT_ROWS, "seed": self.given.seed}
            figures = train_in_a_process(contestant, self.given.envs, settings | {"out": self.out(contestant)})
            quality = self.quality(arch, self.out(contestant))
            about = {"contestant": contestant.name, "arch": arch, "lr": lr, "sparsity": sparsity}
            return about | quality | {"tokens_per_s": figures["tokens_per_s"]}

        if arch in TOP_K:
            return train(None)
        start = _START[contestant.name].get(arch, 0.01)
        return match_l0(train, self.true_l0, start)

    def quality(self, arch: str, path: Path) -> dict[str, Any]:
        """FVU, L0, dead share; for thresholds that are followed during training, at the true L0."""
        from benchmarks.neutral import evaluate, read_neutral, with_l0

        sae, acts = read_neutral(path), self.folder / "acts.npy"
        if arch in ("batchtopk", "matryoshka"):
            sae = with_l0(sae, acts, _HELDOUT_ROWS, max(1, round(self.true_l0)))
        found = asdict(evaluate(sae, acts, _HELDOUT_ROWS))
        return {key: round(found[key], 5) for key in ("fvu", "l0", "dead")}


def match_l0(train: Callable[[float], dict[str, Any]], target: float, start: float) -> dict[str, Any]:
    """Trains with other weights of the penalty until the L0 is within 3 % of `target`; the last training's figures.

    L0 falls as the weight grows: steps of a factor up to 10 until the target lies between two weights,
    then the secant in logarithms, kept inside. The last weight is the closest one that was tried.
    """
    tried: dict[float, float] = {}
    weight, found = start, {}
    for _ in range(_SEARCH_RUNS):
        found = train(weight)
        tried[weight] = max(float(found["l0"]), 1e-3)
        if abs(tried[weight] - target) <= _CLOSE * target:
            return found
        weight = _next_weight(tried, target)
    closest = min(tried, key=lambda w: abs(math.log(tried[w] / target)))
    return found if closest == found["sparsity"] else train(closest)


def _next_weight(tried: dict[float, float], target: float) -> float:
    """The weight to try after those, see match_l0."""
    dense = [w for w in tried if tried[w] > target]
    sparse = [w for w in tried if tried[w] <= target]
    if not sparse:
        return max(dense) * min(10.0, max(2.0, tried[max(dense)] / target))
    if not dense:
        return min(sparse) / min(10.0, max(2.0, target / tried[min(sparse)]))
    low, high = max(dense), min(sparse)
    share = math.log(tried[low] / target) / math.log(tried[low] / tried[high]) if tried[low] != tried[high] else 0.5
    return float(low * (high / low) ** min(0.9, max(0.1, share)))


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every architecture and contestant the run that found the true features best."""
    pairs = dict.fromkeys((run["arch"], run["contestant"]) for run in runs)
    return [
        max((r for r in runs if (r["arch"], r["contestant"]) == pair), key=lambda r: float(r["matched"]))
        for pair in pairs
    ]
