"""SAELens' own LanguageModelSAETrainingRunner from a text; run by the interpreter of an environment that has it.

ENV/bin/python -m benchmarks.peers.saelens_runner --model FOLDER --text FILE.txt --out FILE.safetensors
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import common


def runner(given: argparse.Namespace, folder: str, d_in: int) -> Any:
    """The runner with SAELens' defaults but for what the comparison sets."""
    import sae_lens
    from datasets import Dataset
    from sae_lens.config import LoggingConfig

    lines = [line for line in given.text.read_text(encoding="utf-8").splitlines() if line]
    config = sae_lens.LanguageModelSAERunnerConfig(
        sae=sae_lens.TopKTrainingSAEConfig(d_in=d_in, d_sae=given.width, k=given.k),
        model_name=str(given.model),
        model_class_name="AutoModelForCausalLM",
        hook_name=given.hook,
        dataset_path="given text",
        is_dataset_tokenized=False,
        streaming=False,
        context_size=given.length,
        n_batches_in_buffer=64,  # its default holds less than one batch of 4,096 in sequences of 128
        training_tokens=given.tokens // given.batch * given.batch,
        train_batch_size_tokens=given.batch,
        lr=given.lr,
        device=given.device,
        seed=given.seed,
        checkpoint_path=None,
        output_path=folder,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return sae_lens.LanguageModelSAETrainingRunner(config, override_dataset=Dataset.from_dict({"text": lines}))


def main(argv: list[str] | None = None) -> int:
    """Trains, saves, reports. `seconds` begins when the model is loaded, `wall_s` before that."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.text_options(parser)
    parser.add_argument("--hook", default="model.layers.3", help="module whose output is read")
    given = parser.parse_args(argv)
    import sae_lens  # noqa: F401  its import is no part of the time
    from transformers import AutoConfig

    d_in = AutoConfig.from_pretrained(given.model).hidden_size
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        ready = runner(given, folder, d_in)
        loaded = time.perf_counter()
        ready.run()
        ended = time.perf_counter()
        tensors, header = common.from_saelens(Path(folder))
    figures = common.text_figures(given, seconds=ended - loaded, wall_s=ended - begun)
    if given.out:
        common.write_neutral(given.out, tensors, header | {"origin": "sae-lens", "trained_as": "topk"})
    common.report(figures | {"versions": {n: version(n) for n in ("sae-lens", "transformers", "torch")}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
