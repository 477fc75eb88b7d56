"""Checks a text corpus while it is uploaded, a chunk at a time, in flat memory.

A corpus is UTF-8 text, one document a non-blank line. Its name is display metadata only and never
becomes a path: the stored file is `corpus.txt` inside an artifact.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_core.corpus.documents import CORPUS_FILE
from mistudio_core.errors import InvalidInput, LimitReached, Unsupported

MAX_LINE_BYTES = 1024 * 1024
MAX_CORPUS_BYTES = 64 * 1024**3
_NAME = re.compile(r"^\w[\w .()+,@=-]{0,254}$")
_DEVICE_NAMES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
_LATER = {".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet", ".gz": "compressed", ".zst": "compressed"}
_SNIFF_BYTES = 4096
_CONTROL = bytes(set(range(32)) - {9, 10, 12, 13}) + b"\x7f"


def check_name(name: str) -> str:
    """The name itself, if it may be one. Raises InvalidInput (BAD_FILE_NAME), Unsupported."""
    dots = ".." in name or name.endswith((".", " "))
    if not _NAME.match(name) or dots or _DEVICE_NAMES.match(name) or len(name.encode()) > 255:
        raise InvalidInput.field(
            "filename",
            name,
            "a letter, digit or _ first, then letters, digits, spaces and . _ - ( ) + , @ =; at most 255 bytes; "
            "no folder, no .. and no device name",
            "Rename it, or upload it under another name (--name).",
            reason="BAD_FILE_NAME",
        )
    later = _LATER.get(Path(name).suffix.lower())
    if later is not None:
        raise Unsupported(
            f"a {later} corpus ({name})",
            why="this release reads plain text, one document a line",
            instead="Convert it to a .txt file with one document a line.",
        )
    return name


class CorpusIntake:
    """A corpus on its way into an artifact."""

    def __init__(self, writer: ArtifactWriter, name: str) -> None:
        """`writer` is a staged artifact of kind corpus; `name` was checked by `check_name`."""
        self.name = name
        self.documents = 0
        self.size_bytes = 0
        self._writer = writer
        self._path = writer.path(CORPUS_FILE)
        self._file = self._path.open("wb")
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._line = 1
        self._line_bytes = 0
        self._line_has_text = False
        self._head = b""

    def feed(self, data: bytes, offset: int) -> None:
        """Checks and stores the next bytes. Raises InvalidInput (CORPUS_...), LimitReached, DiskFull."""
        if offset != self.size_bytes:
            raise InvalidInput.field("chunk.offset", offset, f"{self.size_bytes}, the bytes received so far")
        if self.size_bytes + len(data) > MAX_CORPUS_BYTES:
            raise LimitReached(
                f"The corpus is larger than {MAX_CORPUS_BYTES // 1024**3} GiB. Split it.", reason="TOO_LARGE"
            )
        if len(self._head) < _SNIFF_BYTES:
            self._head += data[: _SNIFF_BYTES - len(self._head)]
            self._sniff()
        self._scan(data)
        with disk_errors(self._path.parent, f"corpus {self.name}"):
            self._file.write(data)
        self.size_bytes += len(data)

    def check_size(self, announced: int) -> None:
        """Refuses an upload that broke off: 0 announces nothing. Raises InvalidInput."""
        if announced and announced != self.size_bytes:
            raise InvalidInput.field(
                "size_bytes", announced, f"{self.size_bytes}, the bytes received", "Upload the file again."
            )

    def finish(self) -> None:
        """Ends the corpus. Raises InvalidInput (CORPUS_EMPTY, CORPUS_NOT_UTF8), DiskFull."""
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        self._end_line()
        with disk_errors(self._path.parent, f"corpus {self.name}"):
            self._file.close()
        if self.documents == 0:
            raise InvalidInput(
                f"Corpus file '{self.name}' holds no text. Upload a file with one document a line.",
                reason="CORPUS_EMPTY",
                facts={"filename": self.name},
            )

    def close(self) -> None:
        """Gives the file up; what was staged is discarded by its owner."""
        self._file.close()

    def _sniff(self) -> None:
        """Refuses what is no text: a NUL, or more than 5 % control characters at the start."""
        control = sum(self._head.count(byte) for byte in _CONTROL)
        if b"\x00" in self._head or control > 0.05 * len(self._head):
            raise self._binary()

    def _scan(self, data: bytes) -> None:
        if b"\x00" in data:
            raise self._binary()
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._part(data[start : end + 1])
            self._end_line()
            start = end + 1
        self._part(data[start:])

    def _part(self, piece: bytes) -> None:
        """A piece of the current line."""
        self._line_bytes += len(piece)
        if self._line_bytes > MAX_LINE_BYTES:
            raise InvalidInput(
                f"Line {self._line} of corpus file '{self.name}' is longer than 1 MiB. Put one document on a line.",
                reason="CORPUS_LINE_TOO_LONG",
                facts={"line": self._line, "limit_bytes": MAX_LINE_BYTES},
            )
        try:
            text = self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        self._line_has_text = self._line_has_text or bool(text.strip().strip("\ufeff"))

    def _end_line(self) -> None:
        self.documents += self._line_has_text
        self._line += 1
        self._line_bytes = 0
        self._line_has_text = False

    def _not_utf8(self) -> InvalidInput:
        return InvalidInput(
            f"Line {self._line} of corpus file '{self.name}' is not valid UTF-8. Save the file as UTF-8.",
            reason="CORPUS_NOT_UTF8",
            facts={"line": self._line},
        )

    def _binary(self) -> InvalidInput:
        return InvalidInput(
            f"Corpus file '{self.name}' is not text: line {self._line} holds control characters. "
            "Upload plain UTF-8 text, one document a line.",
            reason="CORPUS_BINARY",
            facts={"filename": self.name, "line": self._line},
        )
