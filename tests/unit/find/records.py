"""Complete synthetic records of features, and the `features` artifact that holds them, as Find writes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.csv_file import HEADER, csv_row
from mistudio_find.exports.schema import CATEGORY, COMPLEXITY, FEATURE, QUALITY, Field, complete

JOB = "find_20250726_151321_d9675dce"
WORDS = ["the", "model", "token", "café", "日本", "naïve", "data-set", "x=1", "don't", "<b>", "&", "🙂", "a;b", "end"]
HOSTILE = ["=cmd|' /C calc'!A0", "\x1b[31mred\x00", "a\u202eb\u2066c", "line\r\nbreak\ttab", "]]>&lt;", "\ufffe\ue000"]
METADATA = {
    "job_id": JOB,
    "source_training_job": "train_20250725_224918_198212ab",
    "model_name": "org/Some-Model_7B",
    "total_features": 0,
    "processing_time": "1.1 seconds",
    "tokens": 57344,
    "documents": 900,
    "lineage": {
        "layer": "3",
        "hook_name": "blocks.3.hook_resid_post",
        "sae_sha256": "ab" * 32,
        "corpus_sha256": "cd" * 32,
    },
    "versions": {"metrics": "1", "categories": "rules/1"},
    "config": {"top_texts": 20, "context_tokens": 32, "seed": 0},
}


def _figure(rng: np.random.Generator, high: float = 1.0) -> float:
    return float(f"{rng.random() * high:.5g}")


def text(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    """A TopActivation of so many tokens."""
    words = [" " + WORDS[i] for i in rng.integers(0, len(WORDS), tokens)]
    activations: list[float] = [0] * tokens
    for at in rng.integers(0, tokens, max(1, tokens // 10)).tolist():
        activations[at] = _figure(rng, 9)
    return {
        "text": "".join(words),
        "activation_strength": max(activations),
        "context": f"section {rng.integers(9)}",
        "tokens": words,
        "activations": activations,
        "document": int(rng.integers(900)),
        "position": int(rng.integers(400)),
        "document_tokens": 400,
    }


def _items(rng: np.random.Generator, field: Field, count: int) -> list[dict[str, Any]]:
    def value(inner: Field) -> Any:
        if inner.kind == "string":
            return WORDS[int(rng.integers(len(WORDS)))]
        return _figure(rng, 3) if inner.kind == "double" else int(rng.integers(1, 1000))

    return [{inner.name: value(inner) for inner in field.fields} for _ in range(count)]


def record(index: int, *, top: int = 20, quantiles: int = 5, contrast: int = 10, tokens: int = 65) -> dict[str, Any]:
    """A record in which every field of the contract holds something, and two keys that are not of it."""
    rng = np.random.default_rng(index)
    lists = {f.name: f for f in FEATURE if f.kind == "message" and f.repeated}
    counts = {"outliers": 3, "associations": 6, "complexity_measures": 4, "behavioral_indicators": 2}
    found = {name: _items(rng, f, counts.get(name, 10)) for name, f in lists.items()}
    found["top_activations"] = [text(rng, tokens) for _ in range(top)]
    found["quantile_activations"] = [text(rng, tokens) for _ in range(quantiles)]
    edges = [float(f"{i * 0.37:.5g}") for i in range(21)]
    return {
        "feature_id": index,
        "coherence_score": _figure(rng),
        "quality_level": QUALITY[1 + index % 4],
        "pattern_category": CATEGORY[1 + index % 5],
        "category_confidence": _figure(rng),
        "pattern_keywords": ["soup", "naïve", "x=1"],
        "keyword_scores": [1.0, 2.0, 3.0],
        **found,
        "contrast_texts": [text(rng, tokens)["text"] for _ in range(contrast)],
        "activation_statistics": {
            **{name: _figure(rng, 5) for name in ("mean", "std", "frequency", "max", "skew")},
            "count": 4711,
            "documents": 99,
            "histogram_edges": edges,
            "histogram_counts": rng.integers(0, 5000, 20).tolist(),
        },
        "dead": False,
        "complexity": COMPLEXITY[1 + index % 3],
        "sae_sha256": "ab" * 32,
        "near_contrast_texts": contrast // 2,
        **{name: _figure(rng) for name in ("confidence", "importance", "diversity", "map_x", "map_y")},
        "semantic_tags": ["food", "numbers & dates"],
        "spread": {
            "tenths": rng.integers(0, 500, 10).tolist(),
            **{name: _figure(rng) for name in ("first_token_share", "document_share", "tokens_a_document")},
        },
        "judge_texts": [{"text": 'secret ,"judge_texts":[', "activation": 1.0, "near": False}],
    }


def dead(index: int) -> dict[str, Any]:
    """The record of a feature that never fires, with nothing but what an older analysis had."""
    return {
        "feature_id": index,
        "coherence_score": 0.0,
        "quality_level": "poor",
        "pattern_category": "general",
        "category_confidence": 0.0,
        "pattern_keywords": [],
        "top_activations": [],
        "activation_statistics": {"mean": 0.0, "std": 0.0, "frequency": 0.0, "max": 0.0, "count": 0, "documents": 0},
        "dead": True,
        "complexity": "low",
        "judge_texts": [],
    }


def hostile(index: int) -> dict[str, Any]:
    """A record whose texts attack what opens the file."""
    evil = record(index, top=3, quantiles=1, contrast=2, tokens=len(HOSTILE))
    for entry in (*evil["top_activations"], *evil["quantile_activations"]):
        entry |= {"tokens": list(HOSTILE), "text": "".join(HOSTILE), "context": HOSTILE[0]}
    evil |= {"pattern_keywords": list(HOSTILE), "semantic_tags": list(HOSTILE), "contrast_texts": list(HOSTILE)}
    for name in ("driving_tokens", "driving_phrases"):
        evil[name] = [{**item, "text": HOSTILE[i % len(HOSTILE)]} for i, item in enumerate(evil[name])]
    return evil


def write_features(folder: Path, records: Iterable[dict[str, Any]]) -> Path:
    """The files of a `features` artifact, in the order given; the published JSON without `judge_texts`."""
    folder.mkdir(parents=True, exist_ok=True)

    def dumps(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    lengths, ids = [], []
    with (
        (folder / "features.jsonl").open("wb") as lines,
        (folder / "features.body").open("w+b") as body,
        (folder / "feature_analysis.csv").open("wb") as table,
    ):
        table.write(HEADER.encode())
        for one in records:
            lengths.append(lines.write(dumps(one) + b"\n"))
            body.write((b",\n" if ids else b"\n") + dumps({k: v for k, v in one.items() if k != "judge_texts"}))
            ids.append(one["feature_id"])
            table.write(csv_row(one).encode())
    index = np.concatenate([[len(ids)], [0], np.cumsum(lengths), np.argsort(ids)])
    (folder / "features.idx").write_bytes(index.astype("<i8").tobytes())
    with (folder / "feature_analysis.json").open("wb") as whole, (folder / "features.body").open("rb") as body:
        whole.write(b'{"job_metadata":' + dumps(METADATA | {"total_features": len(ids)}) + b',"features":[')
        shutil.copyfileobj(body, whole)
        whole.write(b"\n]}\n")
    (folder / "features.body").unlink()
    (folder / "pattern_categories.json").write_bytes(b'{"counts":{}}')
    (folder / "quality_metrics.json").write_bytes(b'{"counts":{}}')
    return folder


class Files:
    """A bare folder as an artifact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def chunks(self, name: str, offset: int = 0, chunk_bytes: int = 1024 * 1024) -> Iterator[tuple[int, bytes]]:
        with (self.folder / name).open("rb") as handle:
            handle.seek(offset)
            while block := handle.read(chunk_bytes):
                yield offset, block
                offset += len(block)


def analysis_of(folder: Path, records: list[dict[str, Any]]) -> Analysis:
    """An analysis with these records, in the order given."""
    return Analysis(Files(write_features(folder, records)))


def plain(record: Mapping[str, Any], fields: tuple[Field, ...] = FEATURE) -> dict[str, Any]:
    """What a form must hold of a record: the contract's fields, float32 where the contract says so."""
    out: dict[str, Any] = {}
    for field in fields:
        value = complete(record, fields)[field.name]
        if field.kind == "message":
            out[field.name] = [plain(v, field.fields) for v in value] if field.repeated else plain(value, field.fields)
        elif field.kind == "float":
            out[field.name] = [float(np.float32(v)) for v in value] if field.repeated else float(np.float32(value))
        else:
            out[field.name] = value
    return out
