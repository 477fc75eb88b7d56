"""Corpora made on the spot: uploads without a service, Parquet files, packed bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from mistudio_core.artifacts import ArtifactReader, ArtifactStore
from mistudio_core.corpus.about import About, open_corpus
from mistudio_core.corpus.columns import Columns
from mistudio_core.corpus.documents import Document, iter_documents
from mistudio_core.corpus.forms import IntakeOptions
from mistudio_core.corpus.intake import CorpusIntake


class Stored(NamedTuple):
    """An upload that went through."""

    reader: ArtifactReader
    about: About

    @property
    def path(self) -> Path:
        return open_corpus(self.reader).path

    @property
    def documents(self) -> list[Document]:
        return list(iter_documents(self.path))


def upload(folder: Path, filename: str, data: bytes, *, chunk: int = 1 << 20, separator: str = "", **columns: Any):
    """Sends bytes through the intake as an upload does; what it raises leaves nothing behind."""
    store = ArtifactStore(folder)
    writer = store.stage(f"/data/samples/{filename}", "corpus")
    intake = None
    try:
        options = IntakeOptions(columns=Columns(**columns), separator=separator)
        intake = CorpusIntake(writer, filename, options)
        for start in range(0, len(data), chunk):
            intake.feed(data[start : start + chunk], start)
        intake.check_size(len(data))
        about = intake.finish()
        return Stored(store.open(writer.seal()), about)
    except BaseException:
        if intake is not None:
            intake.close()
        writer.discard()
        raise


def jsonl(*records: object) -> bytes:
    """Lines of JSON."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file of columns; values are lists or Arrow arrays."""
    import pyarrow as pa
    from pyarrow import parquet as format_

    target = io.BytesIO()
    format_.write_table(pa.table(columns), target, **options)
    return target.getvalue()
