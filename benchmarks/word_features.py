"""Analyses to explain, made in seconds: every feature fires on one word of a real text, and Find looks at it.

The text is the docstrings of the standard library, which every machine has. `put` records such an
analysis as a completed Find job of a home, so that Explain can be started over it.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from mistudio_cli.docstrings import docstrings
from mistudio_core.artifacts import ArtifactReader, ArtifactStore
from mistudio_core.home import Home
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.local import LocalContext
from mistudio_core.jobs.records import NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome

_TOKEN = re.compile(r"\w+|[^\w\s]")
_LONGEST = 400


def analysis(folder: Path, *, features: int, documents: int = 1500) -> ArtifactReader:
    """Find's result over `features` frequent words, in a folder."""
    from mistudio_find import job as find
    from mistudio_find.config import FindConfig

    context = LocalContext(folder / "find", inputs={"codes": _Folder(_codes(folder / "codes", features, documents))})
    find.run(FindConfig(training_job_id="train_words"), context)
    return context.reader("analysis")


class _Folder:
    """A bare folder as an artifact."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / name


def _codes(folder: Path, features: int, documents: int) -> Path:
    from mistudio_torch.codes import CodesWriter

    texts = [t[:_LONGEST] for t in islice(docstrings(Path(sysconfig.get_path("stdlib"))), documents)]
    counts = Counter(w for t in texts for w in {m.group().casefold() for m in _TOKEN.finditer(t)} if len(w) > 3)
    words = {word: i for i, (word, _) in enumerate(counts.most_common(features))}
    rng = np.random.default_rng(0)
    lineage = {"model_name": "words", "layer": 0, "sae_sha256": "ab" * 32, "corpus_sha256": "cd" * 32}
    ids: dict[str, int] = {}
    folder.mkdir(parents=True)
    with CodesWriter(folder, d_sae=features, meta=lineage) as writer:
        for text in texts:
            spans = [m.span() for m in _TOKEN.finditer(text)]
            tokens = [text[a:b].casefold() for a, b in spans]
            fired = [(place, words[t]) for place, t in enumerate(tokens) if t in words]
            writer.add_document(
                text,
                np.array([ids.setdefault(t, len(ids)) for t in tokens], np.uint32),
                np.array(spans, np.int32).reshape(-1, 2),
                np.array([place for place, _ in fired], np.int64),
                np.array([feature for _, feature in fired], np.int64),
                3.0 + rng.random(len(fired)),
            )
        writer.close()
    return folder


async def put(home: Home, features: ArtifactReader) -> str:
    """Records an analysis as a completed Find job of a home that nothing else runs on; the job's id."""
    from mistudio_rpc.runtime import Runtime

    runtime = await Runtime.open(home, services=["find"])
    try:
        new = NewJob(service="find", request=b"", request_id="", model_name="words", inputs={})
        job, _ = await runtime.jobs.start(new)
        claim = await runtime.jobs.claim(job.job_id, "cpu:0")
        if claim is None:
            raise RuntimeError("the job could not be claimed")
        lease = Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)
        uri = artifact_uri(job.job_id, "features", "analysis")
        writer = ArtifactStore(home.artifacts).stage(uri, "features", job_id=job.job_id, attempt=lease.attempt)
        for file in features.record.files:
            shutil.copyfile(features.path(file.name), writer.path(file.name))
        await runtime.worker_jobs.commit_artifact(lease, writer.seal())
        await runtime.worker_jobs.finish(lease, Outcome(result=b""))
        return job.job_id
    finally:
        await runtime.close()
