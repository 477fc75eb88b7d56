"""Memory and speed of corpora: `python -m benchmarks.corpus_memory` prints one JSON line.

Short labelled documents are uploaded (through the intake), tokenised, and trained on with a tiny model,
each in a process of its own, at 100,000 and at 1,000,000 documents. `peak_anon_mb` is memory that cannot be
given back (sampled), `peak_rss_mb` counts the mapped pages of files too; both less what was there before.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STAGES = ("upload", "tokenise", "train")
SIZES = (100_000, 1_000_000)
_PIECE = 1 << 20


def run(sizes: tuple[int, ...] = SIZES, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """Documents a second and peaks by stage and size."""
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        _model(Path(folder) / "models" / "tiny")
        for size in sizes:
            for stage in stages:
                command = [sys.executable, "-m", "benchmarks.corpus_memory", "--child", stage, folder, str(size)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault(stage, {})[str(size)] = json.loads(done.stdout.splitlines()[-1])
    return found


def _model(folder: Path) -> None:
    from tests.support.tinymodels import make

    make(folder, "gpt2", layers=2)


def _pieces(documents: int) -> Iterator[bytes]:
    """JSON lines of 5 to 10 words, every text another one, in pieces of a mebibyte."""
    from tests.support.tinymodels import WORDS

    rng, held = random.Random(documents), bytearray()
    for number in range(documents):
        text = " ".join(rng.choices(WORDS[4:], k=rng.randint(4, 9)))
        record = {"text": f"{text} {number}", "topic": f"t{number % 40}", "who": f"author {number % 50_000}"}
        held += json.dumps(record).encode() + b"\n"
        while len(held) >= _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    yield bytes(held)


def _upload(folder: Path, documents: int) -> None:
    from mistudio_core.artifacts import ArtifactStore
    from mistudio_core.corpus.columns import Columns
    from mistudio_core.corpus.forms import IntakeOptions
    from mistudio_core.corpus.intake import CorpusIntake

    writer = ArtifactStore(folder / str(documents) / "artifacts").stage("/data/samples/many", "corpus")
    options = IntakeOptions(columns=Columns(labels=("topic",), group="who"))
    intake = CorpusIntake(writer, "many.jsonl", options)
    for piece in _pieces(documents):
        intake.feed(piece, intake.size_bytes)
    intake.finish()
    writer.seal()


def _tokenise(folder: Path, documents: int) -> None:
    from transformers import AutoTokenizer

    from mistudio_core.corpus.about import open_corpus
    from mistudio_train.data import read_corpus

    read_corpus(
        open_corpus(_context(folder, documents).input("corpus")),
        AutoTokenizer.from_pretrained(folder / "models" / "tiny"),
        folder / str(documents) / "tokens",
        max_sequence_length=32,
        bos_id=2,
        heldout_fraction=0.1,
        on_batch=lambda _documents, _total: None,
    )


def _train(folder: Path, documents: int) -> None:
    from mistudio_train import job
    from mistudio_train.config import TrainConfig

    config = TrainConfig(
        model_name="tiny",
        model_root=folder / "models",
        layer_number=0,
        architecture="topk",
        hidden_dim=32,
        k=4,
        max_epochs=1,
        min_loss=0.0,
        max_sequence_length=32,
        batch_size=128,
        checkpoint_interval_seconds=3600.0,
    )
    job.run(config, _context(folder, documents))


def _context(folder: Path, documents: int) -> Any:
    from mistudio_core.artifacts import ArtifactRecord
    from mistudio_core.jobs.local import LocalContext

    context = LocalContext(folder / str(documents))
    manifest = next(context.store.root.glob("corpus/*/manifest.json"))
    record = ArtifactRecord.parse(manifest.read_bytes(), str(manifest.parent.relative_to(context.store.root)))
    return LocalContext(folder / str(documents), inputs={"corpus": context.store.open(record)})


def _anonymous_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(stage: str, folder: Path, documents: int) -> None:
    """Runs one stage and prints its figures; imports count as what was there before."""
    import transformers  # noqa: F401

    import mistudio_train.job  # noqa: F401
    import tests.support.tinymodels  # noqa: F401

    peak, over = _anonymous_mb(), threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, _anonymous_mb())

    before, anonymous = _resident_mb(), peak
    sampler = threading.Thread(target=sample)
    sampler.start()
    began = time.monotonic()
    {"upload": _upload, "tokenise": _tokenise, "train": _train}[stage](folder, documents)
    seconds = time.monotonic() - began
    over.set()
    sampler.join()
    print(
        json.dumps(
            {
                "documents_per_s": round(documents / seconds),
                "seconds": round(seconds, 1),
                "peak_anon_mb": round(peak - anonymous, 1),
                "peak_rss_mb": round(_resident_mb() - before, 1),
            }
        )
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--child", nargs=3, metavar=("STAGE", "FOLDER", "DOCUMENTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child[0], Path(given.child[1]), int(given.child[2]))
    else:
        print(json.dumps(run(tuple(given.documents), tuple(given.stages))))


if __name__ == "__main__":
    main()
