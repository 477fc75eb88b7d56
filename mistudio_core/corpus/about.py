"""Where a stored corpus comes from and what it holds: `about.json` beside the documents.

Written once with the corpus, read by whoever lists or trains on it; corpora of earlier releases have none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord
from mistudio_core.corpus.documents import ABOUT_FILE, CORPUS_RECORDS, CORPUS_TEXT
from mistudio_core.corpus.statistics import CorpusStatistics
from mistudio_core.errors import Corrupt


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What `about.json` says."""

    source: str = ""
    """Name of the uploaded file, or of the data set."""
    source_sha256: str = ""
    """SHA-256 of the bytes as they were uploaded, hex; empty for a data set."""
    source_bytes: int = 0
    """Bytes as they were uploaded."""
    statistics: CorpusStatistics = field(default_factory=CorpusStatistics)
    """Figures."""
    warnings: tuple[str, ...] = ()
    """What to know before training on it."""

    def to_json(self) -> bytes:
        """The file."""
        body = {
            "source": self.source,
            "source_sha256": self.source_sha256,
            "source_bytes": self.source_bytes,
            "statistics": self.statistics.to_json(),
            "warnings": list(self.warnings),
        }
        return json.dumps(body, ensure_ascii=False, indent=1).encode()

    @staticmethod
    def parse(data: bytes) -> About:
        """Reads `to_json` back. Raises Corrupt."""
        try:
            body: dict[str, Any] = json.loads(data)
            statistics = CorpusStatistics.from_json(body.pop("statistics"))
            return About(**{**body, "statistics": statistics, "warnings": tuple(body["warnings"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt("The statistics of a corpus cannot be read. Upload the corpus again.") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCorpus:
    """A corpus artifact, ready to be read with `documents.iter_documents`."""

    path: Path
    """The file of documents, verified."""
    sha256: str
    """Its digest: the identity of the corpus."""
    about: About
    """Where it comes from."""


def corpus_file(record: ArtifactRecord) -> str:
    """Name of the file of documents in a corpus artifact. Raises Corrupt where it has none."""
    names = {file.name for file in record.files}
    return CORPUS_RECORDS if CORPUS_RECORDS in names else record.file(CORPUS_TEXT).name


def read_about(reader: ArtifactReader) -> About:
    """What is known of a corpus. Raises Corrupt."""
    if not any(file.name == ABOUT_FILE for file in reader.record.files):
        return About()
    return About.parse(reader.read_bytes(ABOUT_FILE))


def open_corpus(reader: ArtifactReader) -> StoredCorpus:
    """Verifies a corpus artifact, all of it. Raises Corrupt where a byte of it changed."""
    name = corpus_file(reader.record)
    return StoredCorpus(path=reader.path(name), sha256=reader.record.file(name).sha256, about=read_about(reader))
