"""What benchmarks hand to a job in this process: a corpus in its context's store, a bare folder as an artifact."""

from __future__ import annotations

from pathlib import Path

from mistudio_core.jobs.local import LocalContext


class Folder:
    """A bare folder as an artifact."""

    def __init__(self, folder: Path) -> None:
        """The folder with the artifact's files."""
        self._folder = folder

    def path(self, name: str) -> Path:
        """See ArtifactReader."""
        return self._folder / name


def give_corpus(context: LocalContext, name: str, body: bytes) -> None:
    """Makes a file of this name, `corpus.txt` or `corpus.jsonl`, the job's input `corpus`."""
    writer = context.store.stage("/data/corpora/given", "corpus")
    writer.write(name, body)
    context._inputs["corpus"] = context.store.open(writer.seal())
