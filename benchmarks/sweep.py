"""What several SAEs in one job cost beside one harvest and the steps of each: `python -m benchmarks.run sweep`.

Eight SAEs (two widths, two k, two seeds) at one layer of a small causal model. Each is trained alone,
where the harvest and the rest of the training stage are timed apart; then all in one job.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.given import give_corpus
from mistudio_core.jobs.local import LocalContext

_WIDTHS, _KS, _SEEDS = (1024, 2048), (16, 32), (0, 1)


class _Done(Exception):
    """The training stage is over; the rest of the job is not timed."""


def options(parser: argparse.ArgumentParser) -> None:
    """The model and text."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal model")
    parser.add_argument("--text", type=Path, required=True, help="a text file, one document a line")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100_000)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the training stage, alone and together."""
    _train(given, (512,), (16,), (0,), tokens=8192)  # compiles
    alone = [_train(given, (w,), (k,), (s,)) for w in _WIDTHS for k in _KS for s in _SEEDS]
    together = _train(given, _WIDTHS, _KS, _SEEDS)
    harvest = sum(h for _, h in alone) / len(alone)
    bound = harvest + sum(whole - h for whole, h in alone)
    return {
        "tokens": given.tokens,
        "saes": len(alone),
        "alone_s": [round(whole, 2) for whole, _ in alone],
        "harvest_s": round(harvest, 2),
        "bound_s": round(bound, 2),
        "together_s": round(together[0], 2),
        "ratio": round(together[0] / bound, 3),
        "eight_jobs_s": round(sum(whole for whole, _ in alone), 2),
    }


def _train(
    given: argparse.Namespace,
    widths: tuple[int, ...],
    ks: tuple[int, ...],
    seeds: tuple[int, ...],
    tokens: int | None = None,
) -> tuple[float, float]:
    """(seconds of the training stage, of which harvesting)."""
    from mistudio_train import job
    from mistudio_train.config import TrainConfig
    from mistudio_train.variants import Sweep

    config = TrainConfig(
        model_name=given.model.name,
        model_root=given.model.absolute().parent,
        layer_number=given.layer,
        architecture="topk",
        hidden_dim=widths[0],
        k=ks[0],
        seed=seeds[0],
        sweep=Sweep(widths=widths, ks=ks, seeds=seeds) if len(widths) * len(ks) * len(seeds) > 1 else Sweep(),
        learning_rate=2e-3,
        batch_size=32,
        max_epochs=100,
        min_loss=0.0,
        max_sequence_length=128,
        token_budget=tokens or given.tokens,
        sae_batch_tokens=4096,
        max_code_tokens=1000,
    )
    with tempfile.TemporaryDirectory() as folder, _timed() as seconds:
        context = LocalContext(Path(folder), device="cpu:0")
        give_corpus(context, "corpus.txt", given.text.read_bytes())
        with contextlib.suppress(_Done):
            job.run(config, context)
    return seconds["train"], seconds["harvest"]


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Times the training stage of the job that runs inside, and the harvests in it; ends the job after it."""
    from mistudio_torch import harvest as blocks
    from mistudio_train import job
    from mistudio_train import run as stages

    seconds = {"train": 0.0, "harvest": 0.0}
    harvest, loop = blocks.harvest, job.train

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return harvest(*arguments, **named)
        finally:
            seconds["harvest"] += time.perf_counter() - began

    def train(*arguments: Any) -> None:
        seconds["harvest"], began = 0.0, time.perf_counter()
        loop(*arguments)
        seconds["train"] = time.perf_counter() - began
        raise _Done

    blocks.harvest = stages.harvest = timed
    job.train = train  # type: ignore[assignment]
    try:
        yield seconds
    finally:
        blocks.harvest = stages.harvest = harvest
        job.train = loop
