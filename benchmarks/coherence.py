"""Whether coherence means something: against the labels of a corpus, which the analysis never sees.

    python -m benchmarks.run coherence --model FOLDER --corpus FILE.jsonl --label-column label --json

Trains an SAE on the texts, analyses it, and compares each feature's coherence with the purity of its top
documents: the share of their commonest label. `--codes FOLDER` analyses activations that are already there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.given import Folder, give_corpus
from benchmarks.peers.common import BadFile
from mistudio_core.artifacts import ArtifactReader
from mistudio_core.corpus.documents import Document
from mistudio_core.jobs.local import LocalContext

LABEL = "label"
"""The label column of the corpus that the benchmark makes."""
_CHARACTERS_A_TOKEN = 4
_SHUFFLED = 500


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    parser.add_argument("--model", type=Path, help="folder of a model; needed unless --codes is given")
    parser.add_argument("--corpus", type=Path, help=".jsonl or .jsonl.gz with a text and a label a line")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--layer", type=int, default=3, help="block whose residual stream is read, from 0")
    parser.add_argument("--width", type=int, default=512, help="features")
    parser.add_argument("--k", type=int, default=32, help="features a token")
    parser.add_argument("--tokens", type=int, default=250_000, help="tokens to train on and to analyse, about")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--top-texts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the documents, the SAE and the analysis")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--codes", type=Path, help="a codes artifact's folder to analyse instead of training")
    parser.add_argument("--codes-label", default=LABEL, help="label column of its documents")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures. Raises BadFile, MistudioError."""
    if given.codes is None and (given.model is None or given.corpus is None):
        raise BadFile("Give --model and --corpus, or --codes.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        codes = Folder(given.codes) if given.codes else train(given, folder / "train")
        began = time.perf_counter()
        found = analyse(codes, given, folder / "find")
        return found | {"seconds": round(time.perf_counter() - began, 3)}


def documents(path: Path, text: str, label: str) -> list[Document]:
    """Every labelled text once. Raises BadFile for a file without these columns."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        records = [json.loads(line) for line in raw.splitlines() if line.strip()]
        pairs = dict.fromkeys((str(r[text]), str(r[label])) for r in records)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path} has a line without {text!r} and {label!r} ({error}). Name its columns.") from error
    return [Document(text=body, labels={LABEL: name}) for body, name in pairs]


def train(given: argparse.Namespace, folder: Path) -> ArtifactReader:
    """The codes of an SAE that miStudio's own training job made of random documents."""
    from mistudio_train import job
    from mistudio_train.config import TrainConfig

    chosen = documents(given.corpus, given.text_column, given.label_column)
    random.Random(given.seed).shuffle(chosen)
    sizes = np.cumsum([len(document.text) for document in chosen])
    chosen = chosen[: int(np.searchsorted(sizes, given.tokens * _CHARACTERS_A_TOKEN)) + 1]
    context = LocalContext(folder, device=given.device)
    give_corpus(context, "corpus.jsonl", b"".join(document.line() for document in chosen))
    job.run(
        TrainConfig(
            model_name=given.model.name,
            model_root=given.model.absolute().parent,
            layer_number=given.layer,
            architecture="topk",
            hidden_dim=given.width,
            k=given.k,
            learning_rate=4e-3,
            batch_size=32,
            max_epochs=given.epochs,
            min_loss=0.0,
            max_sequence_length=256,
            sae_batch_tokens=2048,
            splice_tokens=0,
            seed=given.seed,
        ),
        context,
    )
    return committed(context, "codes")


def committed(context: LocalContext, kind: str) -> ArtifactReader:
    """What a job committed. Raises BadFile where it wrote none."""
    found = context.committed(kind)
    if found is None:
        raise BadFile(f"The job wrote no {kind}.")
    return found


def analyse(codes: Any, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs Find on the codes and compares."""
    from mistudio_find import job
    from mistudio_find.config import FindConfig
    from mistudio_torch.codes import CodesReader

    context = LocalContext(folder, inputs={"codes": codes})
    job.run(FindConfig(training_job_id="benchmark", top_texts=given.top_texts, seed=given.seed), context)
    with committed(context, "features").path("features.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    reader = CodesReader(codes)
    if given.codes_label not in reader.attributes.label_columns:
        raise BadFile(f"The documents of the codes have no label column {given.codes_label!r}.")
    labels = reader.attributes.label_ids(given.codes_label)[1]
    full = [record for record in records if len(record["top_activations"]) == given.top_texts]
    figures = compare(full, labels)
    shuffled = random_sets(reader, given, folder / "shuffled")
    return figures | {
        "shuffled_median": round(float(np.median(shuffled)), 4),
        "shuffled_p95": round(float(np.quantile(shuffled, 0.95)), 4),
        "documents": reader.n_documents,
        "tokens": reader.n_tokens,
    }


def compare(records: Sequence[Mapping[str, Any]], labels: Any) -> dict[str, Any]:
    """Rank correlation of coherence with the purity of the top documents, and with its variant by entropy."""
    coherence = [record["coherence_score"] for record in records]
    kinds = [[int(labels[text["document"]]) for text in record["top_activations"]] for record in records]
    tiers = Counter(record["quality_level"] for record in records)
    return {
        "spearman": round(spearman(coherence, [purity(kind) for kind in kinds]), 4),
        "spearman_entropy": round(spearman(coherence, [entropy_purity(kind) for kind in kinds]), 4),
        "features": len(records),
        "coherence_median": round(float(np.median(coherence)), 4) if coherence else 0.0,
        "purity_median": round(float(np.median([purity(kind) for kind in kinds])), 4) if kinds else 0.0,
        "tiers": {name: tiers[name] for name in ("excellent", "good", "fair", "poor")},
    }


def purity(labels: Iterable[int]) -> float:
    """The share of the commonest label."""
    counts = list(Counter(labels).values())
    return max(counts) / sum(counts)


def entropy_purity(labels: Iterable[int]) -> float:
    """1 for one label, 0 where every document has its own: 1 - entropy / ln n."""
    counts = np.array(list(Counter(labels).values()), np.float64)
    shares = counts / counts.sum()
    return float(1 + (shares * np.log(shares)).sum() / np.log(max(2.0, counts.sum())))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of the two does not vary."""
    from scipy.stats import rankdata

    if len(a) < 2 or min(a) == max(a) or min(b) == max(b):
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def random_sets(reader: Any, given: argparse.Namespace, folder: Path) -> Any:
    """Coherence of features that fire at random: as many random tokens of as many random documents."""
    from mistudio_find.coherence import FOLLOWING, build_meter
    from mistudio_find.corpus_index import build_index
    from mistudio_find.topics import build_topics

    folder.mkdir(parents=True)
    index = build_index(reader, folder, lambda share: None)
    starts = reader.doc_token_offsets
    meter = build_meter(index, build_topics(index, seed=given.seed), starts, seed=given.seed)
    rng = np.random.default_rng(given.seed + 1)
    candidates = np.flatnonzero(~index.judge & (np.diff(starts) > 0))
    size = min(given.top_texts + FOLLOWING, len(candidates))
    docs = np.concatenate([rng.choice(candidates, size, replace=False) for _ in range(_SHUFFLED)])
    tokens = starts[docs] + (rng.random(len(docs)) * np.diff(starts)[docs]).astype(np.int64)
    first = np.arange(_SHUFFLED + 1) * size
    return meter.measure_many(tokens, first, first[:-1] + min(given.top_texts, size))
