"""miStudio's own training job from a text, with the options and the report of the other contestants.

.venv/bin/python -m benchmarks.ours_text --model FOLDER --text FILE.txt --out FILE.safetensors
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.given import give_corpus
from benchmarks.peers import common
from mistudio_core.jobs.local import LocalContext


class _Stages(LocalContext):
    """Notes when each stage of the job begins."""

    def progress(self, stage: str, **given: Any) -> None:
        """See JobContext."""
        begun = self.__dict__.setdefault("begun", {})
        begun.setdefault(stage, time.perf_counter())
        super().progress(stage, **given)


def run(given: argparse.Namespace, folder: Path) -> tuple[_Stages, float]:
    """The one place that calls the job; the context with its artifacts, and when it began."""
    from mistudio_train import job
    from mistudio_train.config import TrainConfig

    context = _Stages(folder, device="cpu:0" if given.device == "cpu" else given.device)
    give_corpus(context, "corpus.txt", given.text.read_bytes())
    config = TrainConfig(
        model_name=given.model.name,
        model_root=given.model.absolute().parent,
        layer_number=given.layer,
        architecture="topk",
        hidden_dim=given.width,
        k=given.k,
        learning_rate=given.lr,
        batch_size=32,
        max_epochs=100,
        min_loss=0.0,
        max_sequence_length=given.length,
        token_budget=given.tokens // given.batch * given.batch,
        sae_batch_tokens=given.batch,
        seed=given.seed,
        max_code_tokens=1000,
    )
    begun = time.perf_counter()
    job.run(config, context)
    return context, begun


def training_seconds(begun: dict[str, float], ended: float) -> float:
    """From the loaded model to the trained SAE: the stages that tokenise, harvest and train."""
    stages = sorted(begun.items(), key=lambda stage: stage[1])
    names = [name for name, _ in stages]
    first = next((i for i, name in enumerate(names) if "token" in name), 0)
    last = max(i for i, name in enumerate(names) if "train" in name)
    return (stages[last + 1][1] if last + 1 < len(stages) else ended) - stages[first][1]


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports. `wall_s` is the whole job, with evaluation and the codes of its documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.text_options(parser)
    given = parser.parse_args(argv)
    # Imports are no part of the time: a warm spare has made them.
    import mistudio_torch.compiled  # noqa: F401
    import mistudio_train.job  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        context, begun = run(given, Path(folder))
        ended = time.perf_counter()
        stages: dict[str, float] = context.__dict__["begun"]
        figures = common.text_figures(given, seconds=training_seconds(stages, ended), wall_s=ended - begun)
        if given.out:
            sae = next(record for record in context.artifacts if record.kind == "sae")
            tensors, header = common.from_saelens(context.store.open(sae).path("cfg.json").parent)
            common.write_neutral(given.out, tensors, header | {"origin": "mistudio", "trained_as": "topk"})
    common.report(figures | {"versions": {n: version(n) for n in ("mistudio", "transformers", "torch")}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
