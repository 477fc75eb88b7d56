"""One contestant, one architecture, every learning rate, at a wanted L0; run by the contestant's interpreter.

    ENV/bin/python -m benchmarks.peers.search --module benchmarks.peers.saelens --arch jumprelu --l0 4.1 ...

One process for all of it, since importing a library takes longer than a training of this size. The
top-k family gets k; for the others the weight of the penalty is searched.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

TOP_K = ("topk", "batchtopk", "matryoshka")
_RUNS = 10
CLOSE = 0.05
"""An L0 within this share of the wanted one is the wanted one."""


def search(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Figures of the SAE whose L0 is closest, for every rate; its neutral file is `out` in the folder."""
    contestant = importlib.import_module(given.module)
    weight, found = given.weight, []
    for lr in (float(lr) for lr in given.lrs.split(",")):

        def train(sparsity: float | None, lr: float = lr) -> dict[str, Any]:
            return _train(contestant, given, lr, sparsity)

        one = train(None) if given.arch in TOP_K else match_l0(train, given.l0, weight)
        weight = one["sparsity"] or weight
        found.append(one | {"at_l0": given.arch in TOP_K or abs(one["l0"] - given.l0) <= CLOSE * given.l0})
    return found


def _train(contestant: Any, given: argparse.Namespace, lr: float, sparsity: float | None) -> dict[str, Any]:
    """One training, through the contestant's own command line, and its figures on held-out rows."""
    out = given.folder / f"{lr}-{sparsity}.safetensors"
    settings = {"acts": given.acts, "arch": given.arch, "width": given.width, "k": max(1, round(given.l0)), "lr": lr}
    settings |= {"tokens": given.tokens, "batch": given.batch, "seed": given.seed, "heldout-rows": given.heldout_rows}
    settings |= {"out": out} | ({} if sparsity is None else {"sparsity": sparsity}) | json.loads(given.settings)
    arguments = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        contestant.main(arguments)
    speed = json.loads(printed.getvalue().splitlines()[-1])["tokens_per_s"]
    figures = {"lr": lr, "sparsity": sparsity, "out": out.name, "tokens_per_s": speed}
    return figures | _quality(given, out)


def _quality(given: argparse.Namespace, path: Path) -> dict[str, float]:
    """FVU, L0, dead share; for thresholds that are followed during training, at the wanted L0."""
    from benchmarks.neutral import evaluate, read_neutral, with_l0

    sae = read_neutral(path)
    if given.arch in ("batchtopk", "matryoshka"):
        sae = with_l0(sae, given.acts, given.heldout_rows, max(1, round(given.l0)))
    found = asdict(evaluate(sae, given.acts, given.heldout_rows))
    return {key: round(found[key], 5) for key in ("fvu", "l0", "dead")}


def match_l0(train: Callable[[float], dict[str, Any]], target: float, start: float) -> dict[str, Any]:
    """Trains with other weights of the penalty until the L0 is within 5 % of `target`; figures of the closest.

    L0 falls as the weight grows: steps of a factor up to 10 until the target lies between two weights,
    then the secant in logarithms, kept inside.
    """
    tried: dict[float, float] = {}
    found: dict[float, dict[str, Any]] = {}
    weight = start
    for _ in range(_RUNS):
        found[weight] = train(weight)
        tried[weight] = max(float(found[weight]["l0"]), 1e-3)
        if abs(tried[weight] - target) <= CLOSE * target:
            break
        weight = _next_weight(tried, target)
    return found[min(tried, key=lambda w: abs(math.log(tried[w] / target)))]


def _next_weight(tried: dict[float, float], target: float) -> float:
    """The weight to try after those, see match_l0."""
    dense = [w for w in tried if tried[w] > target]
    sparse = [w for w in tried if tried[w] <= target]
    if not sparse:
        return max(dense) * min(10.0, max(1.5, tried[max(dense)] / target))
    if not dense:
        return min(sparse) / min(10.0, max(1.5, target / tried[min(sparse)]))
    low, high = max(dense), min(sparse)
    share = math.log(tried[low] / target) / math.log(tried[low] / tried[high]) if tried[low] != tried[high] else 0.5
    return float(low * (high / low) ** min(0.9, max(0.1, share)))


def main(argv: list[str] | None = None) -> int:
    """Prints one JSON line: the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("module", "arch", "lrs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--settings", default="{}", help="more options of the contestant, JSON")
    for name in ("acts", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("l0", "weight"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("width", "tokens", "batch", "seed", "heldout-rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps({"runs": search(parser.parse_args(argv))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
