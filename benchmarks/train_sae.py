"""Trains an SAE on a file of activations, and compares it with other libraries on the same file.

    python -m benchmarks.run train_sae --acts FILE.npy --arch topk --width 12288 --k 32 --json
    python -m benchmarks.run train_sae --compare --acts FILE.npy --envs .peers
    python -m benchmarks.run train_sae --make-acts FILE.npy

A comparison starts every contestant in a process of its own, ours before each of the others, so
that neighbours were measured in the same minute; one evaluator reads what each has saved.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, PEERS, USUAL, Contestant, train_in_a_process
from benchmarks.peers import common

SPEED = "tokens_per_s"
_COMMON = ("acts", "k", "sparsity", "batch", "tokens", "seed", "heldout_rows", "device")


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    common.options(parser)
    parser.set_defaults(acts=None)
    for action in parser._actions:
        if action.dest == "acts":
            action.required = False
    parser.add_argument("--arch", nargs="+", default=["topk"], help="architecture; several in a comparison")
    group = parser.add_argument_group("comparison")
    group.add_argument("--compare", action="store_true", help="beside other libraries; writes results/train_sae.json")
    group.add_argument("--envs", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    group.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=list(USUAL))
    group.add_argument("--widths", type=int, nargs="+", default=[3072, 12_288])
    group.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    making = parser.add_argument_group("a file of activations")
    making.add_argument("--make-acts", type=Path, metavar="OUT.npy", help="writes one and stops")
    making.add_argument("--text", type=Path, help=".txt or .jsonl, also .gz; default: Python's docstrings")
    making.add_argument("--model", help="default: MiniLM from its Python package")
    making.add_argument("--layer", type=int, default=3)
    making.add_argument("--rows", type=int, default=300_000)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """One of the three. Raises BadFile, MistudioError."""
    if given.save and not given.compare:
        raise common.BadFile("Only a comparison is kept. Add --compare, or leave out --save.")
    if given.make_acts:
        from benchmarks.acts import MODEL, make_acts

        model = given.model or MODEL
        return make_acts(given.make_acts, rows=given.rows, text=given.text, model=model, layer=given.layer)
    if given.acts is None:
        raise common.BadFile("No activations are named. Give --acts FILE.npy, or make a file with --make-acts.")
    return compare(given) if given.compare else single(given)


def single(given: argparse.Namespace) -> dict[str, Any]:
    """Ours alone, in this process: speed, quality on held-out rows, memory of the training."""
    from benchmarks.neutral import evaluate, read_neutral
    from benchmarks.ours import measured

    if len(given.arch) > 1 or not given.heldout_rows:
        raise common.BadFile("One training takes one --arch and at least 1 of --heldout-rows.")
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "sae.safetensors"
        figures = measured(argparse.Namespace(**vars(given) | {"arch": given.arch[0], "out": out}))
        found = evaluate(read_neutral(out, given.device), given.acts, given.heldout_rows)
    settings = {"arch": given.arch[0], "width": given.width, "k": given.k, "lr": given.lr, "seed": given.seed}
    return settings | figures | _quality(asdict(found))


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Every contestant with every learning rate; what is best of each, and how much faster ours is."""
    peers = [PEERS[name] for name in given.peers]
    rows, n_train = common.open_rows(given.acts, given.heldout_rows)
    about = {"rows": len(rows), "d_in": rows.shape[1], "training_rows": n_train, "heldout_rows": given.heldout_rows}
    about |= {"k": given.k, "batch": given.batch, "tokens": given.tokens // given.batch * given.batch}
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(given, Path(folder))
        for arch in given.arch:
            for width in given.widths:
                for lr in given.lrs:
                    for peer in peers:
                        if arch in peer.architectures:
                            runs += bench.pair(peer, arch, width, lr)
    summary = [row for arch in given.arch for width in given.widths for row in summarise(runs, arch, width)]
    return {"data": about, "summary": summary, "runs": runs}


class _Bench:
    """Runs contestants and evaluates what they saved; the same bytes are evaluated once."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.folder = folder
        self.seen: dict[str, dict[str, Any]] = {}
        self.pairs = 0

    def pair(self, peer: Contestant, arch: str, width: int, lr: float) -> Iterator[dict[str, Any]]:
        """Ours, then a peer, then both are evaluated."""
        self.pairs += 1
        settings = {name: getattr(self.given, name) for name in _COMMON} | {"arch": arch, "width": width, "lr": lr}
        done = []
        for contestant in (OURS, peer):
            out = self.folder / f"{contestant.module}.safetensors"
            figures = train_in_a_process(contestant, self.given.envs, settings | {"out": out})
            done.append((contestant, figures, out))
        for contestant, figures, out in done:
            row = {"contestant": contestant.name, "pair": self.pairs, "arch": arch, "width": width, "lr": lr}
            row |= figures | self.quality(arch, out)
            line = f"{contestant.name:20} {arch:10} {width:6} lr {lr:g}: {row[SPEED]:9,.0f} tokens/s, FVU {row['fvu']}"
            print(line, file=sys.stderr, flush=True)
            yield row

    def quality(self, arch: str, path: Path) -> dict[str, Any]:
        """FVU, L0 and dead share; for the batch top-k family at L0 = k, and as it was saved."""
        from benchmarks.neutral import evaluate, read_neutral, with_l0

        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in self.seen:
            given = self.given
            sae = read_neutral(path, given.device)
            found = _quality(asdict(evaluate(sae, given.acts, given.heldout_rows)))
            if arch in ("batchtopk", "matryoshka"):
                level = with_l0(sae, given.acts, given.heldout_rows, given.k)
                saved = {f"{name}_as_saved": value for name, value in found.items()}
                found = _quality(asdict(evaluate(level, given.acts, given.heldout_rows))) | saved
            self.seen[digest] = found
        return self.seen[digest]


def _quality(found: dict[str, Any]) -> dict[str, Any]:
    return {"fvu": round(found["fvu"], 5), "l0": round(found["l0"], 3), "dead": round(found["dead"], 5)}


def summarise(runs: list[dict[str, Any]], arch: str, width: int) -> Iterator[dict[str, Any]]:
    """One row a contestant: its run with the lowest FVU, its median speed, and how many times faster ours was.

    `ours_times` is the median over the pairs of (our speed / the peer's speed right after it).
    """
    here = [run for run in runs if (run["arch"], run["width"]) == (arch, width)]
    ours = {run["pair"]: run[SPEED] for run in here if run["contestant"] == OURS.name}
    for name in dict.fromkeys(run["contestant"] for run in here):
        mine = [run for run in here if run["contestant"] == name]
        best = min(mine, key=lambda run: float(run["fvu"]))
        row = {"arch": arch, "width": width, "contestant": name, "best_lr": best["lr"]}
        row |= {key: best[key] for key in ("fvu", "l0", "dead")}
        row |= {SPEED: round(statistics.median(run[SPEED] for run in mine), 1)}
        row |= {"peak_rss_mb": max(run["peak_rss_mb"] for run in mine), "runs": len(mine)}
        if name != OURS.name:
            row["ours_times"] = round(statistics.median(ours[run["pair"]] / run[SPEED] for run in mine), 2)
        yield row
