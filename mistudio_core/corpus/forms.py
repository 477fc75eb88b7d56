"""The forms a corpus comes in, each taking unpacked bytes: plain text, separated text, JSONL, Parquet.

Each checks what it takes and stores it in a staged artifact. Packing, names and sizes are `intake`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_core.corpus import names
from mistudio_core.corpus.columns import MAX_DOCUMENT_BYTES, Columns, RecordReader, invalid_record, missing_column
from mistudio_core.corpus.documents import CORPUS_TEXT, MAX_LINE_BYTES, Document
from mistudio_core.corpus.parquet import isolated_rows
from mistudio_core.corpus.sink import DocumentSink, check_size
from mistudio_core.corpus.splitting import LineEnds, Sniffer, Splitter, decode
from mistudio_core.corpus.statistics import StatisticsBuilder
from mistudio_core.errors import InvalidInput

MAX_TEXT_LINE_BYTES = 1024 * 1024
"""Longest line of plain text, bytes."""
MAX_SEPARATOR_CHARACTERS = 100
"""Longest separator."""
_SPOOL = "upload.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class IntakeOptions:
    """How an uploaded file is to be read."""

    columns: Columns = field(default_factory=Columns)
    """Which column is what; for JSONL and Parquet."""
    separator: str = ""
    """What stands between documents, for text; empty: a line end."""

    def __post_init__(self) -> None:
        if self.separator and (len(self.separator) > MAX_SEPARATOR_CHARACTERS or "\x00" in self.separator):
            raise InvalidInput.field("separator", self.separator, f"1 to {MAX_SEPARATOR_CHARACTERS} characters")


class Form(Protocol):
    """Takes the unpacked bytes of one form of file."""

    statistics: StatisticsBuilder
    """Counts what is stored."""

    @property
    def reader(self) -> RecordReader | None:
        """What the records had; None for text."""
        ...

    def feed(self, data: bytes) -> None:
        """Checks and stores the next bytes. Raises InvalidInput, LimitReached, DiskFull."""
        ...

    def finish(self) -> int:
        """Ends the stored file; its size in bytes. Raises what `feed` does."""
        ...

    def close(self) -> None:
        """Lets go of open files."""
        ...


def form_for(form: str, writer: ArtifactWriter, filename: str, options: IntakeOptions) -> Form:
    """The form of a file. Raises InvalidInput for options that belong to another one."""
    if form == names.TEXT:
        if options.columns.any_named:
            field, value = next(iter(_named(options.columns).items()))
            raise InvalidInput.field(
                field, value, "nothing for a text file, which has no columns", "Upload JSONL or Parquet."
            )
        return _Separated(writer, filename, options.separator) if options.separator else _Lines(writer, filename)
    if options.separator:
        raise InvalidInput.field(
            "separator", options.separator, "nothing for JSONL and Parquet: a record is a document"
        )
    return (_Parquet if form == names.PARQUET else _Records)(writer, filename, options.columns)


def _named(columns: Columns) -> dict[str, str]:
    fields = {"text_column": columns.text, "messages_column": columns.messages}
    fields |= {"label_columns": ", ".join(columns.labels), "group_column": columns.group, "time_column": columns.time}
    return {field: value for field, value in fields.items() if value}


class _Lines:
    """Plain text, one document a line: kept as it is."""

    reader: RecordReader | None = None

    def __init__(self, writer: ArtifactWriter, filename: str) -> None:
        self.statistics = StatisticsBuilder()
        self._name = filename
        self._size = 0
        self._path = writer.path(CORPUS_TEXT)
        self._file = self._path.open("wb")
        self._sniffer = Sniffer(filename)
        self._lines = Splitter(filename, limit=MAX_TEXT_LINE_BYTES)

    def feed(self, data: bytes) -> None:
        self._sniffer.feed(data)
        self._count(self._lines.feed(data))
        self._size += len(data)
        check_size(self._size)
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._file.write(data)

    def finish(self) -> int:
        self._count(self._lines.finish())
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._file.close()
        return self._size

    def close(self) -> None:
        self._file.close()

    def _count(self, lines: Iterator[tuple[int, bytes]]) -> None:
        for number, line in lines:
            text = decode(line, number, self._name)
            if text:
                self.statistics.add_text(text)


class _Stored:
    """What is stored as records."""

    reader: RecordReader | None = None

    def __init__(self, writer: ArtifactWriter, filename: str, labels: tuple[str, ...] = ()) -> None:
        self._name = filename
        self._sink = DocumentSink(writer, filename, labels)
        self.statistics = self._sink.statistics

    def close(self) -> None:
        self._sink.close()


class _Separated(_Stored):
    """Text whose documents are parted by a separator; CR LF counts as LF."""

    def __init__(self, writer: ArtifactWriter, filename: str, separator: str) -> None:
        super().__init__(writer, filename)
        self._ends = LineEnds()
        self._sniffer = Sniffer(filename)
        end = separator.replace("\r\n", "\n").encode()
        self._pieces = Splitter(filename, limit=MAX_DOCUMENT_BYTES, end=end, unit="Document")

    def feed(self, data: bytes) -> None:
        self._sniffer.feed(data)
        self._store(self._pieces.feed(self._ends.feed(data)))

    def finish(self) -> int:
        self._store(self._pieces.feed(self._ends.finish()))
        self._store(self._pieces.finish())
        self._sink.close()
        return self._sink.size_bytes

    def _store(self, pieces: Iterator[tuple[int, bytes]]) -> None:
        for number, piece in pieces:
            text = decode(piece, number, self._name, "Document")
            if text:
                self._sink.add(Document(text=text))


class _Records(_Stored):
    """JSON objects, one a line."""

    reader: RecordReader

    def __init__(self, writer: ArtifactWriter, filename: str, columns: Columns) -> None:
        super().__init__(writer, filename, columns.labels)
        self.reader = RecordReader(columns, filename)
        self._sniffer = Sniffer(filename)
        self._lines = Splitter(filename, limit=MAX_LINE_BYTES)

    def feed(self, data: bytes) -> None:
        self._sniffer.feed(data)
        self._store(self._lines.feed(data))

    def finish(self) -> int:
        self._store(self._lines.finish())
        self.reader.finish()
        self._sink.close()
        return self._sink.size_bytes

    def _store(self, lines: Iterator[tuple[int, bytes]]) -> None:
        for number, line in lines:
            text = decode(line, number, self._name)
            document = self.reader.document(parse_record(text, number, self._name), number) if text else None
            if document is not None:
                self._sink.add(document)


class _Parquet(_Stored):
    """Parquet: spooled, then read by a process of its own."""

    reader: RecordReader

    def __init__(self, writer: ArtifactWriter, filename: str, columns: Columns) -> None:
        super().__init__(writer, filename, columns.labels)
        self.reader = RecordReader(columns, filename, unit="Row")
        self._path = writer.path(_SPOOL)
        self._spool = self._path.open("wb")

    def feed(self, data: bytes) -> None:
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._spool.write(data)

    def finish(self) -> int:
        with disk_errors(self._path.parent, f"corpus {self._name}"):
            self._spool.close()
        columns = self.reader.columns
        rows = isolated_rows(self._path, self._name, columns.wanted)
        check_schema(columns, tuple(next(rows, {})), self._name)
        for number, row in enumerate(rows, 1):
            document = self.reader.document(row, number)
            if document is not None:
                self._sink.add(document)
        self._path.unlink()
        self._sink.close()
        return self._sink.size_bytes

    def close(self) -> None:
        self._spool.close()
        self._sink.close()


def parse_record(line: str, number: int, name: str) -> Any:
    """The JSON value of a line. Raises InvalidInput (CORPUS_RECORD_INVALID)."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        hint = "; a file with one array holds no lines of objects" if line.startswith("[") else ""
        raise invalid_record("Line", number, name, f"is not JSON ({error.msg}, column {error.colno}{hint})") from error
    except (ValueError, RecursionError) as error:
        raise invalid_record(
            "Line", number, name, "is not JSON that can be read: too deep, or a huge number"
        ) from error


def check_schema(columns: Columns, there: tuple[str, ...], name: str) -> None:
    """Refuses a file whose columns are known before its rows. Raises InvalidInput (CORPUS_COLUMN_MISSING)."""
    where = f"Corpus file '{name}'"
    if not any(column in there for column in columns.content):
        header = "messages_column" if columns.messages and not columns.text else "text_column"
        raise missing_column(header, columns.content[0], there, where, " or ".join(map(repr, columns.content)))
    for column, header in columns.attributes.items():
        if column not in there:
            raise missing_column(header, column, there, where)
