"""miStudio's own Find job on an imported SAE, with the options and the report of the other contestants.

    .venv/bin/python -m benchmarks.ours_find --model FOLDER --data FOLDER --work FOLDER --out FILE.json

The clock starts at the model's first forward pass, which measures how the SAE fits, and stops when the artifact
with all evidence is committed. A job on a few contexts runs before it: it compiles.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.given import give_corpus
from benchmarks.peers import evidence
from benchmarks.peers.common import report
from mistudio_core.jobs.local import LocalContext

_GIVES: dict[str, Callable[[Any], object]] = {
    "top": lambda r: r["top_activations"],
    "quantile": lambda r: r["quantile_activations"],
    "contrast": lambda r: r["contrast_texts"],
    "near_contrast": lambda r: r["near_contrast_texts"],
    "judge": lambda r: r["judge_texts"],
    "frequency": lambda r: r["activation_statistics"]["frequency"],
    "histogram": lambda r: r["activation_statistics"]["histogram_counts"],
    "moments": lambda r: r["activation_statistics"]["skew"],
    "drivers": lambda r: r["driving_tokens"] and r["driving_phrases"],
    "spread": lambda r: r["spread"],
    "outliers": lambda r: r["outliers"],
    "diversity": lambda r: r["diversity"],
    "coherence": lambda r: r["confidence"],
    "category": lambda r: r["pattern_category"] and r["pattern_keywords"],
    "associations": lambda r: r["associations"],
    "logits": lambda r: r.get("promoted_tokens"),
    "nearest_activation": lambda r: r.get("nearest_by_activation"),
    "nearest_decoder": lambda r: r.get("nearest_by_decoder"),
    "map": lambda r: r.get("map_x") is not None,
}


class Watched(LocalContext):
    """Notes when each stage of the job begins."""

    def progress(self, stage: str, *, fraction: float, **more: Any) -> None:
        """See JobContext."""
        begun: dict[str, float] = self.__dict__.setdefault("begun", {})
        if stage not in begun:
            begun[stage] = time.perf_counter()
            self.__dict__.setdefault("cpu", {})[stage] = time.process_time()
        super().progress(stage, fraction=fraction, **more)


def run(given: argparse.Namespace, folder: Path, lines: bytes) -> tuple[Watched, dict[str, float], float]:
    """The one place that calls the job; its context, seconds by stage and of processors from the forward pass on."""
    from mistudio_find import job
    from mistudio_find.config import FindConfig

    folder.mkdir(parents=True)
    context = Watched(folder)
    give_corpus(context, evidence.CORPUS_FILE, lines)
    config = FindConfig(
        sae_uri=evidence.SAELENS_FOLDER,
        model_name=given.model.name,
        corpus_file="given",
        model_root=given.model.absolute().parent,
        sae_root=given.data.absolute(),
    )
    job.run(config, context)
    seconds = by_stage(context.__dict__["begun"], time.perf_counter())
    return context, seconds, time.process_time() - context.__dict__["cpu"]["harvest"]


def by_stage(begun: dict[str, float], ended: float) -> dict[str, float]:
    """Seconds between the beginnings of the stages, from `harvest` on."""
    stages = sorted(((at, name) for name, at in begun.items() if at >= begun["harvest"]))
    ends = [*(at for at, _ in stages[1:]), ended]
    return {name: end - at for (at, name), end in zip(stages, ends, strict=True)}


def records(context: Watched) -> Iterator[dict[str, Any]]:
    """Every record that the job wrote."""
    with context.reader("analysis").path("features.jsonl").open("rb") as file:
        for line in file:
            yield json.loads(line)


def write_activations(context: Watched, path: Path) -> None:
    """All activations as the job stored them: float16 (tokens, features), .npy."""
    from mistudio_torch.codes import CodesReader

    codes = CodesReader(context.reader("codes"))
    dense = np.zeros((codes.n_tokens, codes.d_sae), np.float16)
    for feature in range(codes.d_sae):
        found = codes.feature(feature)
        dense[found.positions, feature] = found.values
    np.save(path, dense)


def main(argv: list[str] | None = None) -> int:
    """Analyses, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    evidence.options(parser)
    parser.add_argument("--profile", type=Path, help="where to write what cProfile saw of the job")
    given = parser.parse_args(argv)
    lines = (given.data / evidence.CORPUS_FILE).read_bytes().splitlines(keepends=True)
    run(given, given.work.parent / "warm", b"".join(lines[: evidence.WARM_CONTEXTS]))
    if given.profile:
        import cProfile

        profile = cProfile.Profile()
        context, seconds, cpu_s = profile.runcall(run, given, given.work / "job", b"".join(lines))
        profile.dump_stats(given.profile)
    else:
        context, seconds, cpu_s = run(given, given.work / "job", b"".join(lines))
    artifacts = context.store.root
    found = list(records(context))
    figures = evidence.figures(seconds, cpu_s, features=sum(not record["dead"] for record in found), work=artifacts)
    live = [record for record in found if not record["dead"]]
    gives = [name for name, has in _GIVES.items() if any(has(record) for record in live)]
    places = {
        record["feature_id"]: [
            (top["document"], top["position"], top["activation_strength"])
            for top in record["top_activations"][: evidence.PLACES]
        ]
        for record in live
    }
    evidence.write_places(given.out, places)
    write_activations(context, given.out.with_suffix(".npy"))
    versions = {name: version(name) for name in ("mistudio", "transformers", "torch", "numba")}
    report(figures | {"gives": [*gives, "copies", "codes", "search"], "versions": versions})
    return 0


if __name__ == "__main__":
    sys.exit(main())
