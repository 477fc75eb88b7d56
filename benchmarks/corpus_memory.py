"""Memory and speed of corpora: `python -m benchmarks.corpus_memory` prints one JSON line.

Short labelled documents are uploaded (through the intake), tokenised, harvested (tokenised and read through a tiny
model) and trained on (harvest, training, figures and codes), each in a process of its own, at three sizes.
`peak_anon_mb` is memory that cannot be given back (sampled from outside), `peak_rss_mb` counts the mapped pages of
files too; both less what was there before. `growth` is the rise of the first by document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mistudio_core import hostmemory

if TYPE_CHECKING:
    from mistudio_train.config import TrainConfig

STAGES = ("upload", "tokenise", "harvest", "train")
SIZES = (100_000, 300_000, 1_000_000)
_PIECE = 1 << 20
_EVERY = 0.01


def run(sizes: tuple[int, ...] = SIZES, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """Documents a second and peaks by stage and size, and what a stage grows by."""
    rows = []
    with TemporaryDirectory() as folder:
        _model(Path(folder) / "models" / "tiny")
        for size in sizes:
            for stage in stages:
                rows.append({"stage": stage, "documents": size} | _watched(stage, folder, size))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return {"rows": rows, "growth": growth(rows)}


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each stage the bytes that a document more takes, from one size to the next larger one."""
    found = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = sorted((row for row in rows if row["stage"] == stage), key=lambda row: int(row["documents"]))
        for less, more in itertools.pairwise(own):
            taken = (more["peak_anon_mb"] - less["peak_anon_mb"]) * 2**20
            each = taken / (more["documents"] - less["documents"])
            span = {"from": less["documents"], "to": more["documents"]}
            found.append({"stage": stage, **span, "bytes_a_document": round(each, 1)})
    return found


def _watched(stage: str, folder: str, documents: int) -> dict[str, Any]:
    """Runs a stage in a process of its own; its memory is sampled from here, where nothing of it can stand in the way.

    The process writes a line once its imports are done, and its figures at the end.
    """
    command = [sys.executable, "-m", "benchmarks.corpus_memory", "--child", stage, folder, str(documents)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None or not child.stdout.readline():
            raise SystemExit(f"{stage} of {documents} documents did not start")
        before = peak = _anonymous_mb(child.pid)
        while child.poll() is None:
            peak = max(peak, _anonymous_mb(child.pid))
            time.sleep(_EVERY)
        last = child.stdout.read().splitlines()[-1:]
    if child.returncode or not last:
        raise SystemExit(f"{stage} of {documents} documents failed")
    return json.loads(last[0]) | {"peak_anon_mb": round(peak - before, 1)}


def _model(folder: Path) -> None:
    from tests.support.tinymodels import make

    make(folder, "gpt2", layers=1)


def _pieces(documents: int) -> Iterator[bytes]:
    """JSON lines of 4 to 7 words, every text another one, in pieces of a mebibyte."""
    from tests.support.tinymodels import WORDS

    rng, held = random.Random(documents), bytearray()
    for number in range(documents):
        text = " ".join(rng.choices(WORDS[4:], k=rng.randint(3, 6)))
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
        max_sequence_length=16,
        bos_id=2,
        heldout_fraction=0.1,
        on_batch=lambda _documents, _total: None,
    )


def _harvest(folder: Path, documents: int) -> None:
    """Every training document of an epoch through the model, block by block, as a job does it; nothing is trained."""
    from mistudio_torch.cpu import keep_memory
    from mistudio_train import job
    from mistudio_train.data import epoch_blocks
    from mistudio_train.parallel import ALONE

    keep_memory()
    config = _config(folder)
    run, _ = job._prepare(config, _context(folder, documents), ALONE)
    for block in epoch_blocks(run.corpus, seed=config.seed, epoch=0, block_tokens=config.block_tokens):
        run.activations(block)


def _train(folder: Path, documents: int) -> None:
    from mistudio_train import job

    job.run(_config(folder), _context(folder, documents))


def _config(folder: Path) -> TrainConfig:
    from mistudio_train.config import TrainConfig

    return TrainConfig(
        model_name="tiny",
        model_root=folder / "models",
        layer_number=0,
        architecture="topk",
        hidden_dim=32,
        k=4,
        max_epochs=1,
        min_loss=0.0,
        max_sequence_length=16,
        batch_size=128,
        splice_tokens=0,
        checkpoint_interval_seconds=3600.0,
    )


def _context(folder: Path, documents: int) -> Any:
    from mistudio_core.artifacts import ArtifactRecord
    from mistudio_core.jobs.local import LocalContext

    context = LocalContext(folder / str(documents))
    manifest = next(context.store.root.glob("corpus/*/manifest.json"))
    record = ArtifactRecord.parse(manifest.read_bytes(), str(manifest.parent.relative_to(context.store.root)))
    return LocalContext(folder / str(documents), inputs={"corpus": context.store.open(record)})


def _anonymous_mb(pid: int) -> float:
    """Memory of a process that is no file's; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def _child(stage: str, folder: Path, documents: int) -> None:
    """Runs one stage and prints its figures; imports count as what was there before."""
    import transformers  # noqa: F401

    import mistudio_train.job  # noqa: F401
    import tests.support.tinymodels  # noqa: F401

    hostmemory.reset_peak()
    print("ready", flush=True)
    before, began = hostmemory.resident_bytes(), time.monotonic()
    {"upload": _upload, "tokenise": _tokenise, "harvest": _harvest, "train": _train}[stage](folder, documents)
    seconds = time.monotonic() - began
    figures = {"documents_per_s": round(documents / seconds), "seconds": round(seconds, 1)}
    print(json.dumps(figures | {"peak_rss_mb": round((hostmemory.peak_resident_bytes() - before) / 2**20, 1)}))


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
