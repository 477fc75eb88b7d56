"""Known features: SAELens' synthetic model makes rows of which every feature is known, and both train on them.

    python -m benchmarks.run synthetic --envs .peers

Same rows, width, batch, number of rows and L0 for both; each with its best of the learning rates. Top-k
architectures get k = the true L0; for the others the weight of the penalty is searched until the L0 on
held-out rows is the true one. How well the true features were found is SAELens' own measure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, PEERS, Contestant, run_module
from benchmarks.peers import search

ARCHITECTURES = (*search.TOP_K, "standard", "jumprelu", "gated")
KINDS = ("plain", "tree")
_PEER = replace(PEERS["saelens"], settings=(("dead_window", 100),))
"""SAELens' auxiliary loss begins after 1,000 steps without firing, which is most of a run of this size. After 100 it
finds more of the true features."""
_START = {"SAELens": {"standard": 0.7, "gated": 0.7, "jumprelu": 0.07}, "miStudio": {"jumprelu": 0.03}}
"""Where the search of the penalty's weight begins; 0.1 where nothing is said."""
_HELDOUT_ROWS = 50_000


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    parser.add_argument("--envs", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["plain"], help="plain: independent features")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--tokens", type=int, default=400_000, help="rows to train on")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--true-features", type=int, default=256)
    parser.add_argument("--width", type=int, help="features of the SAEs; default: the true number")
    parser.add_argument("--d-in", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", action="store_true", help="keep what the result file has of other architectures and rates"
    )
    parser.set_defaults(compare=True)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Every kind of features and every architecture with both contestants."""
    width = given.width or given.true_features
    data: dict[str, Any] = {"features": given.true_features, "d_in": given.d_in, "width": width}
    data |= {"tokens": given.tokens // given.batch * given.batch, "batch": given.batch}
    before = _before(given, data)
    runs = [run for run in before.get("runs", []) if not _again(given, run)]
    true_l0: dict[str, float] = before.get("data", {}).get("true_l0", {})
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as place:
            trial = _Trial.of(given, Path(place), kind, width)
            true_l0 |= {kind: round(trial.true_l0, 3)}
            for arch in given.arch:
                runs += trial.runs(arch)
    data |= {"true_l0": true_l0, "lrs": sorted({run["lr"] for run in runs})}
    return {"data": data, "summary": summarise(runs), "runs": runs}


def _again(given: argparse.Namespace, run: dict[str, Any]) -> bool:
    return run["kind"] in given.kinds and run["arch"] in given.arch and run["lr"] in given.lrs


def _before(given: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """What the result file holds where it is to be kept. Raises FileNotFoundError for one of other sizes."""
    path = given.results / "synthetic.json"
    if not given.keep or not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text())["figures"]
    if any(figures["data"].get(key) != value for key, value in data.items()):
        raise FileNotFoundError(f"{path} was measured with other sizes. Give the same, or leave out --keep.")
    return figures


def _verb(name: str) -> tuple[str, str]:
    return ("benchmarks.peers.saelens_synthetic", name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """Trains contestants on the rows of one kind, at the true L0."""

    given: argparse.Namespace
    folder: Path
    kind: str
    width: int
    true_l0: float

    @staticmethod
    def of(given: argparse.Namespace, folder: Path, kind: str, width: int) -> _Trial:
        """Makes the rows."""
        made = {"acts": folder / "acts.npy", "features": folder / "features.npy", "kind": kind, "seed": given.seed}
        made |= {"rows": given.tokens + _HELDOUT_ROWS, "true_features": given.true_features, "d_in": given.d_in}
        about = run_module(_PEER.python(given.envs), _verb("make"), "SAELens", made)
        return _Trial(given=given, folder=folder, kind=kind, width=width, true_l0=about["true_l0"])

    def runs(self, arch: str) -> list[dict[str, Any]]:
        """The run at the true L0 of both contestants at every learning rate, and how well SAELens says that it is."""
        saes = self.folder / arch
        runs = [run for contestant in (OURS, _PEER) for run in self.searched(contestant, arch, saes / contestant.name)]
        measured = {"folder": saes, "features": self.folder / "features.npy"}
        matched = run_module(_PEER.python(self.given.envs), _verb("measure"), "SAELens", measured)
        for run in runs:
            run.update(matched[f"{run['contestant']}/{run.pop('out')}"])
            row = f"{self.kind} {run['contestant']:10} {arch:10} lr {run['lr']:g}: matched {run['matched']:.4f}"
            print(f"{row}, L0 {run['l0']:.2f}, weight {run['sparsity']}", file=sys.stderr, flush=True)
        return runs

    def searched(self, contestant: Contestant, arch: str, saes: Path) -> list[dict[str, Any]]:
        """What the contestant's own process finds; its SAEs are left in the folder."""
        saes.mkdir(parents=True)
        given = self.given
        settings = {"module": contestant.module, "arch": arch, "lrs": ",".join(str(lr) for lr in given.lrs)}
        settings |= {"acts": self.folder / "acts.npy", "folder": saes, "l0": self.true_l0, "width": self.width}
        settings |= {"weight": _START[contestant.name].get(arch, 0.1)}
        settings |= {"settings": json.dumps(dict(contestant.settings))}
        settings |= {"tokens": given.tokens, "batch": given.batch, "seed": given.seed, "heldout_rows": _HELDOUT_ROWS}
        about = {"kind": self.kind, "contestant": contestant.name, "arch": arch}
        found = run_module(contestant.python(given.envs), (search.__name__,), contestant.name, settings)
        return [about | run for run in found["runs"]]


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every kind, architecture and contestant the run that found the true features best; those at the L0 first."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["kind"], run["arch"], run["contestant"]), []).append(run)
    order = sorted(groups, key=lambda g: (KINDS.index(g[0]), ARCHITECTURES.index(g[1])))
    return [max(groups[group], key=lambda r: (bool(r["at_l0"]), float(r["matched"]))) for group in order]
