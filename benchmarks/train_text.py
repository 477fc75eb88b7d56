"""From a text to a trained SAE, harvest included, beside SAELens' own runner on the same small causal model.

    python -m benchmarks.run train_text --model FOLDER --text FILE --envs .peers --compare

Both get the same documents: as many as the tokens need, and half as many again. What they trained is
measured on activations of documents that neither has seen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, train_in_a_process
from benchmarks.peers import common

OURS = Contestant(name="miStudio", module="benchmarks.ours_text", environment="", architectures=frozenset())
SAELENS = Contestant(
    name="SAELens", module="benchmarks.peers.saelens_runner", environment="saelens", architectures=frozenset()
)
_SPARE = 1.5
_HELDOUT_DOCUMENTS = 512
_SHARED = ("model", "layer", "length", "width", "k", "batch", "tokens", "lr", "seed", "device")


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    common.text_options(parser)
    for action in parser._actions:
        if action.dest == "text":
            action.required, action.help = False, ".txt or .jsonl, also .gz; default: Python's docstrings"
    parser.add_argument("--compare", action="store_true", help="beside SAELens; writes results/train_text.json")
    parser.add_argument("--envs", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is run, in turn")
    parser.add_argument("--hook", help="the block's module path; default: model.layers.LAYER")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Ours alone, or in turn with SAELens."""
    contestants = (OURS, SAELENS) if given.compare else (OURS,)
    settings = {name: getattr(given, name) for name in _SHARED}
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text, unseen = cut(given, folder / "text.txt")
        for number in range(given.rounds if given.compare else 1):
            for contestant in contestants:
                out = folder / f"{contestant.name}.safetensors"
                hook = {"hook": given.hook or f"model.layers.{given.layer}"} if contestant is SAELENS else {}
                own = settings | hook | {"text": text, "out": out}
                figures = train_in_a_process(contestant, given.envs, own)
                runs.append({"contestant": contestant.name, "round": number} | figures)
                speed = f"{contestant.name:10} {figures['tokens_per_s']:9,.0f} tokens/s"
                print(speed, file=sys.stderr, flush=True)
        quality = heldout_quality(given, unseen, {c.name: folder / f"{c.name}.safetensors" for c in contestants})
    data = settings | {"model": given.model.name, "tokens": runs[0]["tokens"]}
    return {"data": data, "summary": summarise(runs, quality), "runs": runs}


def cut(given: argparse.Namespace, target: Path) -> tuple[Path, list[str]]:
    """The documents to train on as one file, and those that nobody trains on."""
    from transformers import AutoTokenizer

    from benchmarks.acts import shuffled, texts

    documents = shuffled([" ".join(text.split()) for text in texts(given.text)])
    unseen, rest = documents[:_HELDOUT_DOCUMENTS], documents[_HELDOUT_DOCUMENTS:]
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    taken, tokens = 0, 0
    while taken < len(rest) and tokens < _SPARE * given.tokens:
        part = rest[taken : taken + 256]
        tokens += sum(len(ids) for ids in tokenizer(part, add_special_tokens=False)["input_ids"])
        taken += len(part)
    target.write_text("".join(f"{text}\n" for text in rest[:taken]), encoding="utf-8")
    return target, unseen


def heldout_quality(given: argparse.Namespace, unseen: list[str], files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """FVU, L0 and dead share of each SAE on the residual stream of unseen documents, special tokens left out."""
    import torch

    from benchmarks.acts import blocks
    from benchmarks.neutral import Evaluator, read_neutral

    evaluators = {name: Evaluator(read_neutral(path, given.device)) for name, path in files.items()}
    for x_ND in blocks(str(given.model), given.layer, unseen, given.length):
        for evaluator in evaluators.values():
            evaluator.add(torch.from_numpy(x_ND))
    return {name: asdict(evaluator.result()) for name, evaluator in evaluators.items()}


def summarise(runs: list[dict[str, Any]], quality: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contestant: medians over its rounds, quality, and how many times faster ours was in the same round."""
    ours = {run["round"]: run["tokens_per_s"] for run in runs if run["contestant"] == OURS.name}
    rows = []
    for name in quality:
        mine = [run for run in runs if run["contestant"] == name]
        row: dict[str, Any] = {"contestant": name, "rounds": len(mine)}
        row |= {key: statistics.median(run[key] for run in mine) for key in ("tokens_per_s", "seconds", "wall_s")}
        row |= {"peak_rss_mb": max(run["peak_rss_mb"] for run in mine)}
        row |= {key: round(quality[name][key], 4) for key in ("fvu", "l0", "dead")}
        if name != OURS.name:
            times = (ours[run["round"]] / run["tokens_per_s"] for run in mine)
            row["ours_times"] = round(statistics.median(times), 2)
        rows.append(row)
    return rows
