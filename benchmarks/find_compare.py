"""Evidence for every feature of one SAE on the same tokens, beside delphi and SAEDashboard.

    python -m benchmarks.run find_compare --model FOLDER --text FILE --data FOLDER --envs .peers --save

Each runs in a process of its own environment, in turn, from the model's forward pass to the written result;
what each names as a feature's strongest places is compared, and every difference explained.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import find_agreement, find_compare_data
from benchmarks.contestants import Contestant, run_module
from benchmarks.peers import evidence

OURS = Contestant(name="miStudio", module="benchmarks.ours_find", environment="", architectures=frozenset())
PEERS = {
    "delphi": Contestant(
        name="delphi", module="benchmarks.peers.delphi", environment="delphi", architectures=frozenset({"topk"})
    ),
    "saedashboard": Contestant(
        name="SAEDashboard",
        module="benchmarks.peers.saedashboard",
        environment="saedashboard",
        architectures=frozenset({"topk"}),
    ),
}


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal model of the Llama family")
    parser.add_argument("--text", type=Path, help=".jsonl with text and label, or .txt, also .gz; to make --data")
    parser.add_argument("--data", type=Path, default=Path(".peers/find_compare"), help="kept SAE and contexts")
    parser.add_argument("--envs", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--rounds", type=int, default=3, help="times that each is run, in turn")
    parser.add_argument("--tokens", type=int, default=57_344)
    parser.add_argument("--length", type=int, default=128, help="tokens of a context")
    parser.add_argument("--layer", type=int, default=3, help="block whose residual stream is read, from 0")
    parser.add_argument("--width", type=int, default=512, help="features")
    parser.add_argument("--k", type=int, default=32, help="features a token")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """All in turn, `rounds` times; then their lists beside each other."""
    if given.text is None and not (given.data / evidence.FACTS_FILE).exists():
        raise FileNotFoundError(f"{given.data} holds no SAE and no contexts yet. Give --text, of which they are made.")
    find_compare_data.make(given)
    contestants = [OURS, *(PEERS[name] for name in given.peers)]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(given.rounds):
            for contestant in contestants:
                figures = one(contestant, given, Path(place), number)
                runs.append({"contestant": contestant.name, "round": number} | figures)
                print(f"{contestant.name:12} {figures['seconds']:8.2f} s", file=sys.stderr, flush=True)
        agreement = compared(given, Path(place), [contestant.name for contestant in contestants])
    return {
        "data": evidence.facts(given.data),
        "summary": summarise(runs),
        "agreement": agreement,
        "gives": gives(runs),
        "runs": runs,
    }


def one(contestant: Contestant, given: argparse.Namespace, place: Path, number: int) -> dict[str, Any]:
    """Runs a contestant's script; its report. Its neutral file stays under `place`, its result does not."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        work = Path(folder) / "work"
        work.mkdir()
        out = place / f"{contestant.name}.json"
        settings = {"model": given.model, "data": given.data, "work": work, "out": out}
        return run_module(contestant.python(given.envs), (contestant.module,), contestant.name, settings)


def compared(given: argparse.Namespace, place: Path, names: list[str]) -> dict[str, Any]:
    """How each list follows its own rule, and ours beside each other one."""
    stored = find_agreement.load(given.data, given.model, place / f"{OURS.name}.npy")
    lists = {name: evidence.read_places(place / f"{name}.json") for name in names}
    return {
        "own_rule": {name: find_agreement.own(name, found, stored) for name, found in lists.items()},
        "beside_ours": {
            name: find_agreement.between(name, found, lists[OURS.name], stored)
            for name, found in lists.items()
            if name != OURS.name
        },
    }


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contestant: medians over its rounds, and how many times faster ours was in the same round."""
    ours = {run["round"]: run["seconds"] for run in runs if run["contestant"] == OURS.name}
    rows = []
    for name in dict.fromkeys(run["contestant"] for run in runs):
        mine = [run for run in runs if run["contestant"] == name]
        row: dict[str, Any] = {"contestant": name, "rounds": len(mine), "features": mine[0]["features"]}
        row["seconds"] = round(statistics.median(run["seconds"] for run in mine), 3)
        row["cpu_s"] = round(statistics.median(run["cpu_s"] for run in mine), 3)
        row["stages"] = {
            stage: round(statistics.median(run["stages"][stage] for run in mine), 3) for stage in mine[0]["stages"]
        }
        row["written_mb"] = mine[0]["written_mb"]
        row["peak_rss_mb"] = max(run["peak_rss_mb"] for run in mine)
        if name != OURS.name:
            row["ours_times"] = round(statistics.median(run["seconds"] / ours[run["round"]] for run in mine), 2)
        row["versions"] = mine[0]["versions"]
        rows.append(row)
    return rows


def gives(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What each result holds, by evidence.KINDS."""
    found = {run["contestant"]: set(run["gives"]) for run in runs}
    return {name: [kind for kind in evidence.KINDS if kind in has] for name, has in found.items()}
