"""Where documents are stored: `corpus.jsonl` with its statistics in a staged artifact.

Used by uploads and by data sets of the hub, so that both become the same artifact. Reads nothing.
"""

from __future__ import annotations

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_core.corpus.about import About
from mistudio_core.corpus.columns import RecordReader, too_long
from mistudio_core.corpus.documents import ABOUT_FILE, CORPUS_RECORDS, MAX_LINE_BYTES, Document
from mistudio_core.corpus.statistics import StatisticsBuilder, warnings_of
from mistudio_core.errors import InvalidInput, LimitReached

MAX_CORPUS_BYTES = 64 * 1024**3
"""Largest corpus, bytes, uploaded and stored."""


class DocumentSink:
    """Writes documents as canonical records."""

    def __init__(self, writer: ArtifactWriter, name: str, labels: tuple[str, ...] = ()) -> None:
        """`writer` is a staged artifact of kind corpus; `name` is for messages."""
        self.statistics = StatisticsBuilder(labels)
        self.size_bytes = 0
        self._name = name
        self._path = writer.path(CORPUS_RECORDS)
        self._file = self._path.open("wb")

    def add(self, document: Document) -> None:
        """Stores a document. Raises LimitReached, InvalidInput (CORPUS_LINE_TOO_LONG), DiskFull."""
        line = document.line()
        if len(line) > MAX_LINE_BYTES:
            raise too_long("Document", self.statistics.documents + 1, self._name, MAX_LINE_BYTES)
        self.size_bytes += len(line)
        check_size(self.size_bytes)
        self.statistics.add(document)
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._file.write(line)

    def close(self) -> None:
        """Ends the file. Raises DiskFull."""
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._file.close()


def check_size(size: int) -> None:
    """Raises LimitReached (TOO_LARGE) for more bytes than a corpus may have."""
    if size > MAX_CORPUS_BYTES:
        raise LimitReached(
            f"The corpus is larger than {MAX_CORPUS_BYTES // 1024**3} GiB. Split it.", reason="TOO_LARGE"
        )


def write_about(
    writer: ArtifactWriter,
    statistics: StatisticsBuilder,
    *,
    size_bytes: int,
    source: str,
    source_sha256: str = "",
    source_bytes: int = 0,
    reader: RecordReader | None = None,
) -> About:
    """Completes a staged corpus with `about.json`. Raises InvalidInput (CORPUS_EMPTY), DiskFull."""
    if statistics.documents == 0:
        raise InvalidInput(
            f"Corpus file '{source}' holds no text. Upload a file with one document a line.",
            reason="CORPUS_EMPTY",
            facts={"filename": source},
        )
    figures = statistics.result(size_bytes, reader)
    about = About(
        source=source,
        source_sha256=source_sha256,
        source_bytes=source_bytes,
        statistics=figures,
        warnings=warnings_of(figures, reader),
    )
    writer.write(ABOUT_FILE, about.to_json())
    return about
