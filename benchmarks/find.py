"""How fast Find's compiled pass is, and what it holds: `python -m benchmarks.run find --features 512 --json`.

The pass is statistics, histogram, top 20 positions, quantile and contrast picks and token lift; what
surrounds it (reading the corpus, topics, associations and outliers, phrases, records, files) is timed
apart. The median of several rounds after one that compiles.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.find_data import write_codes
from benchmarks.given import Folder
from mistudio_core.jobs.local import LocalContext
from mistudio_find import evidence, job
from mistudio_find.associations import carried_by
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import build_index
from mistudio_find.phrases import find_phrases
from mistudio_find.products import one_thread_each
from mistudio_find.topics import build_topics
from mistudio_torch.codes import CodesReader
from mistudio_torch.compiled import threads as use_threads

_CONFIG = FindConfig(training_job_id="benchmark")


class _Timer(defaultdict[str, float]):
    """Seconds by name."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self[name] += time.perf_counter() - began


class _Anonymous(threading.Thread):
    """Watches the memory of this process that no file is behind; pages of mapped files go when others need them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.megabytes, self._ended = 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        """Looks twenty times a second."""
        while not self._ended.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024
            self.megabytes = max(self.megabytes, now)

    def stop(self) -> None:
        """Ends watching."""
        self._ended.set()
        self.join()


def options(parser: argparse.ArgumentParser) -> None:
    """Sizes."""
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=57_422, help="the reference run's by default")
    parser.add_argument("--k", type=int, default=32, help="features that fire on each token")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--codes", type=Path, help="a folder of codes to use, or to make and keep")
    parser.add_argument("--whole", action="store_true", help="also run the whole job and say how long its stages take")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """One line of figures."""
    with TemporaryDirectory() as scratch:
        folder = arguments.codes or Path(scratch) / "codes"
        if not (folder / "meta.json").exists():
            write_codes(folder, features=arguments.features, tokens=arguments.tokens, k=arguments.k)
        return _figures(arguments, folder, Path(scratch))


def _figures(arguments: argparse.Namespace, folder: Path, scratch: Path) -> dict[str, Any]:
    parts = use_threads(arguments.threads or 1 << 10)
    peak = _Anonymous()
    once = _Timer()
    with once("read_s"):
        codes = CodesReader.from_folder(folder)
        index = build_index(codes, scratch / "index", lambda _: None)
    with once("topics_s"):
        topics = build_topics(index, seed=0)
        pools = evidence.build_pools(codes, index, topics, context=_CONFIG.context_tokens, seed=0)
    with one_thread_each():  # as in a job
        rounds = [_pass(codes, index, topics, pools, parts) for _ in range(arguments.rounds + 1)]
    rounds = rounds[-arguments.rounds or -1 :]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    found = evidence.survey(codes, index, topics, pools, _CONFIG, parts=parts, tick=lambda _: None)
    with once("phrases_s"):
        find_phrases(index, found, parts)
    peak.stop()
    figures = {
        "features": codes.d_sae,
        "tokens": codes.n_tokens,
        "nonzeros": codes.n_nonzero,
        "threads": parts,
        "features_per_s": round(codes.d_sae / seconds["pass_s"]),
        "nonzeros_per_s": round(codes.n_nonzero / seconds["pass_s"]),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "peak_anonymous_mb": round(peak.megabytes, 1),
        **{name: round(value, 4) for name, value in ({**seconds, **once}).items()},
    }
    if arguments.whole:
        began = time.perf_counter()
        job.run(_CONFIG, LocalContext(scratch / "job", inputs={"codes": Folder(folder)}))
        whole = time.perf_counter() - began
        figures |= {
            "job_s": round(whole, 2),
            "job_features_per_s": round(codes.d_sae / whole),
            "job_peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
    return figures


def _pass(codes: CodesReader, index: Any, topics: Any, pools: Any, parts: int) -> _Timer:
    """One pass over everything, as `evidence.survey` makes it."""
    timer = _Timer()
    with timer("pass_s"):
        carried = carried_by(codes)
        found = evidence.empty(codes.d_sae, _CONFIG, carried)
    for first, last in codes.ranges(evidence.CHUNK_ACTIVATIONS, evidence.CHUNK_FEATURES):
        with timer("pass_s"):
            chunk = evidence.Chunk(codes, index, first, last, parts)
            chunk.measure(found)
            chunk.pick(found, _CONFIG.seed)
            chunk.contrast(found, topics, pools, _CONFIG.seed)
        with timer("associations_s"):
            chunk.associate(found, carried)
        with timer("outliers_s"):
            chunk.find_outliers(found)
        codes.release()
        index.release()
    return timer
