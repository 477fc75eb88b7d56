"""What every contestant of the evidence comparison shares: options, data on the disk, clock, the neutral file.

Imported by interpreters of several environments, so it needs numpy alone. The neutral file is JSON: for each
feature its strongest places, [context, position, activation], strongest first, at most PLACES of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.common import Array, peak_rss_mb

PLACES = 20
"""Places kept a feature."""
TOKENS_FILE = "tokens.npy"
"""In the data folder: int64, contexts x length."""
CORPUS_FILE = "corpus.jsonl"
"""In the data folder: the same contexts as texts, one a line, each of exactly as many tokens."""
FACTS_FILE = "facts.json"
"""In the data folder: what it was made of."""
SAELENS_FOLDER, SPARSIFY_FOLDER = "saelens", "sparsify"
"""In the data folder: the SAE in two layouts."""
SPARSIFY_HOOK = "layers.{layer}"
"""Folder in SPARSIFY_FOLDER, and the module whose output is read."""
WARM_CONTEXTS = 32
"""Contexts that go through once before the clock starts."""

KINDS = {
    "top": "strongest places with text and an activation a token",
    "quantile": "samples from weaker activations",
    "contrast": "texts on which it is silent, at random",
    "near_contrast": "texts on which it is silent, near the strongest in topic",
    "judge": "texts kept back to judge explanations",
    "copies": "copies of a text left out of the strongest",
    "frequency": "how often it fires",
    "histogram": "histogram of activations",
    "moments": "mean, deviation and skew of activations",
    "drivers": "words and phrases that drive it, with lift",
    "spread": "spread over positions and documents",
    "outliers": "outliers",
    "diversity": "diversity of its texts",
    "coherence": "coherence, quality tier, confidence, importance",
    "category": "category, tags, keywords",
    "associations": "association with labels, corrected for false discoveries",
    "logits": "promoted and suppressed tokens",
    "logit_histogram": "histogram of effects on tokens",
    "nearest_activation": "features that fire alike",
    "nearest_decoder": "features with a like decoder direction",
    "neurons": "dimensions of the model that go with it",
    "map": "place on a map of all features",
    "codes": "every activation, kept on the disk",
    "search": "table and full-text index to query",
}
"""What a result may give, in words. A contestant says what its own holds."""


def options(made: argparse.ArgumentParser) -> None:
    """Adds what every contestant's script takes."""
    made.add_argument("--model", type=Path, required=True, help="folder of a causal model")
    made.add_argument("--data", type=Path, required=True, help="folder that benchmarks.find_compare_data made")
    made.add_argument("--work", type=Path, required=True, help="empty folder for the result")
    made.add_argument("--out", type=Path, required=True, help="neutral file to write")


def tokens(data: Path) -> Array:
    """int64 (contexts, length)."""
    found: Array = np.load(data / TOKENS_FILE, allow_pickle=False)
    return found


def facts(data: Path) -> dict[str, Any]:
    """What the data was made of: layer, length, width, k, ..."""
    found: dict[str, Any] = json.loads((data / FACTS_FILE).read_text())
    return found


class Stages:
    """Seconds by stage, in order; the sum is from the model's forward pass to the written result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By name of the stage."""
        self.cpu_s = 0.0
        """Seconds of all processors in all stages: what a busy machine changes least."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what is done within."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.cpu_s += time.process_time() - cpu


def written_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def figures(seconds: Mapping[str, float], cpu_s: float, *, features: int, work: Path) -> dict[str, Any]:
    """What a contestant reports of its run. The peak is read here, before anything else is computed."""
    return {
        "seconds": round(sum(seconds.values()), 3),
        "cpu_s": round(cpu_s, 3),
        "stages": {name: round(value, 3) for name, value in seconds.items()},
        "features": features,
        "written_mb": round(written_bytes(work) / 2**20, 1),
        "peak_rss_mb": peak_rss_mb(),
    }


def write_places(path: Path, places: Mapping[int, Sequence[tuple[int, int, float]]]) -> None:
    """Writes the neutral file."""
    body = {str(feature): [[int(c), int(p), float(v)] for c, p, v in found] for feature, found in places.items()}
    path.write_text(json.dumps(body))


def read_places(path: Path) -> dict[int, list[tuple[int, int, float]]]:
    """Reads it back."""
    body = json.loads(path.read_text())
    return {int(feature): [(c, p, v) for c, p, v in found] for feature, found in body.items()}
