"""delphi's own cache and examples for every feature, as its pipeline makes them; run by an environment that has it.

    ENV/bin/python -m benchmarks.peers.delphi --model FOLDER --data FOLDER --work FOLDER --out FILE.json

`LatentCache` with its statistics and splits, then `LatentDataset` with its constructor and sampler, all with
their defaults but for the length of contexts. Its result is the cache on the disk and records in memory: its own
`LatentRecord.save` cannot write the tensors in them. The encoder is not compiled, as it would be on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import evidence
from benchmarks.peers.common import Array, report

_GIVES: dict[str, Callable[[Any], object]] = {
    "top": lambda record: len(record.train) > 0 and len(record.train[0].str_tokens) > 0,
    "quantile": lambda record: len({example.quantile for example in record.test}) > 1,
    "contrast": lambda record: len(record.not_active) > 0,
    "frequency": lambda record: record.per_token_frequency > 0,
    "nearest_activation": lambda record: len(record.neighbours) > 0,
}


def configs(given: argparse.Namespace, facts: dict[str, Any]) -> Any:
    """Its RunConfig: defaults, but for where things are and how long contexts are."""
    from delphi.config import CacheConfig, ConstructorConfig, RunConfig, SamplerConfig

    return RunConfig(
        CacheConfig(cache_ctx_len=facts["length"], n_tokens=facts["contexts"] * facts["length"]),
        ConstructorConfig(),
        SamplerConfig(),
        model=str(given.model),
        sparse_model=str(given.data / evidence.SPARSIFY_FOLDER),
        hookpoints=[evidence.SPARSIFY_HOOK.format(layer=facts["layer"])],
    )


def cache(config: Any, model: Any, encoders: Any, tokens_CT: torch.Tensor, folder: Path) -> None:
    """`populate_cache` of its `__main__`, with these tokens instead of a data set of the hub."""
    from delphi.latents import LatentCache

    folder.mkdir(parents=True, exist_ok=True)
    made = LatentCache(model, encoders, batch_size=config.cache_cfg.batch_size, log_path=folder.parent)
    made.run(tokens_CT.numel(), tokens_CT)
    made.generate_statistics_cache()
    made.save_splits(n_splits=config.cache_cfg.n_splits, save_dir=folder)
    made.save_config(save_dir=folder, cfg=config.cache_cfg, model_name=config.model)


def records(config: Any, tokenizer: Any, folder: Path) -> list[Any]:
    """Every feature that it has enough examples of."""
    from delphi.latents import LatentDataset

    dataset = LatentDataset(
        raw_dir=folder,
        sampler_cfg=config.sampler_cfg,
        constructor_cfg=config.constructor_cfg,
        modules=config.hookpoints,
        tokenizer=tokenizer,
    )
    return list(dataset)


def places(found: list[Any], tokens_CT: Array, folder: Path, length: int) -> dict[int, list[tuple[int, int, float]]]:
    """Where the strongest examples of each record are: it keeps tokens only, so windows are looked up by them.

    Equal windows are told apart by the activations in the cache.
    """
    from safetensors.numpy import load_file

    stored: dict[tuple[int, int, int], float] = {}
    for path in folder.glob("*/*.safetensors"):
        split, first = load_file(path), int(path.stem.split("_")[0])
        rows = split["locations"].astype(int)
        keys = zip((rows[:, 2] + first).tolist(), rows[:, 0].tolist(), rows[:, 1].tolist(), strict=True)
        stored |= dict(zip(keys, split["activations"].astype(float).tolist(), strict=True))
    where: dict[bytes, list[int]] = {}
    for number, window in enumerate(tokens_CT.reshape(-1, length)):
        where.setdefault(window.tobytes(), []).append(number)
    a_context = tokens_CT.shape[1] // length
    out: dict[int, list[tuple[int, int, float]]] = {}
    for record in found:
        feature, taken = record.latent.latent_index, []
        for example in record.examples[: evidence.PLACES]:
            at, value = int(example.activations.argmax()), example.max_activation
            for number in where[example.tokens.numpy().tobytes()]:
                place = number // a_context, number % a_context * length + at
                if stored.get((feature, *place)) == value and (*place, value) not in taken:
                    taken.append((*place, value))
                    break
        out[feature] = taken
    return out


def main(argv: list[str] | None = None) -> int:
    """Caches, makes examples, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    evidence.options(parser)
    given = parser.parse_args(argv)
    from delphi.sparse_coders import load_hooks_sparse_coders
    from transformers import AutoModel, AutoTokenizer

    config = configs(given, evidence.facts(given.data))
    tokens_CT = torch.from_numpy(evidence.tokens(given.data))
    model = AutoModel.from_pretrained(given.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    encoders, _ = load_hooks_sparse_coders(model, config)
    cache(config, model, encoders, tokens_CT[: evidence.WARM_CONTEXTS], given.work.parent / "warm" / "latents")
    stages, latents = evidence.Stages(), given.work / "latents"
    with stages("cache"):
        cache(config, model, encoders, tokens_CT, latents)
    with stages("examples"):
        found = records(config, tokenizer, latents)
    figures = evidence.figures(stages.seconds, stages.cpu_s, features=len(found), work=given.work)
    gives = [name for name, has in _GIVES.items() if any(has(record) for record in found)]
    window = config.constructor_cfg.example_ctx_len
    evidence.write_places(given.out, places(found, tokens_CT.numpy(), latents, window))
    versions = {name: version(name) for name in ("eai-delphi", "eai-sparsify", "transformers", "torch")}
    report(figures | {"gives": [*gives, "codes"], "versions": versions})
    return 0


if __name__ == "__main__":
    sys.exit(main())
