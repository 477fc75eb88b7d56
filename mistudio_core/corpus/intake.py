"""Checks a corpus while it is uploaded, a chunk at a time, in flat memory, and makes it canonical.

Plain text with one document a line is kept byte by byte as `corpus.txt`; everything else becomes
`corpus.jsonl`. Parquet needs random access: it is spooled beside the artifact and read at the end.
"""

from __future__ import annotations

import hashlib

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.corpus.about import About
from mistudio_core.corpus.forms import IntakeOptions, form_for
from mistudio_core.corpus.names import check_name, form_of
from mistudio_core.corpus.sink import check_size, write_about
from mistudio_core.corpus.unpack import unpacker
from mistudio_core.errors import InvalidInput


class CorpusIntake:
    """A corpus on its way into an artifact."""

    def __init__(self, writer: ArtifactWriter, filename: str, options: IntakeOptions | None = None) -> None:
        """`writer` is a staged artifact of kind corpus. Raises InvalidInput, Unsupported."""
        self.size_bytes = 0
        """Bytes received."""
        self._writer = writer
        self._filename = check_name(filename)
        self._digest = hashlib.sha256()
        found = form_of(filename)
        self._unpacker = unpacker(found.packing, filename)
        self._form = form_for(found.form, writer, filename, options or IntakeOptions())

    def feed(self, data: bytes, offset: int) -> None:
        """Checks and stores the next bytes. Raises InvalidInput (CORPUS_...), LimitReached, DiskFull."""
        if offset != self.size_bytes:
            raise InvalidInput.field("chunk.offset", offset, f"{self.size_bytes}, the bytes received so far")
        self.size_bytes += len(data)
        check_size(self.size_bytes)
        self._digest.update(data)
        for piece in self._unpacker.feed(data):
            self._form.feed(piece)

    def check_size(self, announced: int) -> None:
        """Refuses an upload that broke off: 0 announces nothing. Raises InvalidInput."""
        if announced and announced != self.size_bytes:
            raise InvalidInput.field(
                "size_bytes", announced, f"{self.size_bytes}, the bytes received", "Upload the file again."
            )

    def finish(self) -> About:
        """Ends the corpus. Raises InvalidInput (CORPUS_EMPTY, ...), DiskFull."""
        self._unpacker.finish()
        size = self._form.finish()
        return write_about(
            self._writer,
            self._form.statistics,
            size_bytes=size,
            source=self._filename,
            source_sha256=self._digest.hexdigest(),
            source_bytes=self.size_bytes,
            reader=self._form.reader,
        )

    def close(self) -> None:
        """Gives the file up; what was staged is discarded by its owner."""
        self._form.close()
