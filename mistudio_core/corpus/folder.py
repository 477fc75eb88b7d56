"""A folder of files as one stream of JSON records, for an upload: every text, JSONL and Parquet file below it.

Files come in the order of their paths. Each record is checked where it stands, so that an error names the
file and its line. Runs where the files are, not in a service.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_core.corpus import names
from mistudio_core.corpus.columns import MAX_DOCUMENT_BYTES, TEXT, Columns, RecordReader, missing_column
from mistudio_core.corpus.documents import MAX_LINE_BYTES
from mistudio_core.corpus.forms import MAX_TEXT_LINE_BYTES, check_schema, parse_record
from mistudio_core.corpus.parquet import rows
from mistudio_core.corpus.splitting import LineEnds, Sniffer, Splitter, decode
from mistudio_core.corpus.unpack import unpacker
from mistudio_core.errors import InvalidInput, MistudioError

ENDINGS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
"""Files that are read; each but Parquet also with .gz or .zst after it."""
PIECE_BYTES = 512 * 1024
"""Size of the pieces that come out, at least; at most a record more, cut at 1 MiB."""
_MOST_PIECE_BYTES = 1024 * 1024
_READ_BYTES = 1024 * 1024
_NAMED_FILES = 10


def files_below(folder: Path) -> list[Path]:
    """The files that are read, in the order of their paths. Hidden ones and linked folders are left out.

    Raises InvalidInput where there is none, or where some cannot be opened: it names them.
    """
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base) / name for name in files if not name.startswith(".") and _is_read(name)]
    if not found:
        raise InvalidInput.field(
            "corpus", str(folder), f"a folder with files that end in {', '.join(ENDINGS)}", reason="CORPUS_EMPTY"
        )
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    closed = [path.relative_to(folder).as_posix() for path in found if not _opens(path)]
    if closed:
        more = f" and {len(closed) - _NAMED_FILES} more" if len(closed) > _NAMED_FILES else ""
        raise InvalidInput(
            f"These files cannot be read: {', '.join(closed[:_NAMED_FILES])}{more}. "
            "Allow reading them, or take them out of the folder.",
            reason="CORPUS_UNREADABLE",
            facts={"files": ", ".join(closed[:_NAMED_FILES]), "count": len(closed)},
        )
    return found


def _is_read(name: str) -> bool:
    return name.lower().removesuffix(".gz").removesuffix(".zst").endswith(ENDINGS)


def _opens(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderStream:
    """The files of a folder as one JSONL file."""

    folder: Path
    """The folder."""
    files: list[Path]
    """Its files, from `files_below`."""
    columns: Columns = field(default_factory=Columns)
    """Which column is what in its JSONL and Parquet files."""
    separator: str = ""
    """What stands between the documents of a text file; empty: a line end."""
    whole_files: bool = False
    """Whether a text file is one document; Markdown always is."""

    def pieces(self) -> Iterator[bytes]:
        """Bytes of the stream, at most 1 MiB at a time. Raises InvalidInput, Unsupported, LimitReached."""
        held = bytearray()
        for record in self._records():
            held += _line(record)
            if len(held) >= PIECE_BYTES:
                for start in range(0, len(held), _MOST_PIECE_BYTES):
                    yield bytes(held[start : start + _MOST_PIECE_BYTES])
                held.clear()
        if held:
            yield bytes(held)

    def _records(self) -> Iterator[dict[str, Any]]:
        seen: dict[str, None] = {}
        for path in self.files:
            name = path.relative_to(self.folder).as_posix()
            try:
                yield from self._of_file(path, name, seen)
            except MistudioError as error:
                if name not in error.message:
                    error.args = (f"{name}: {error.message}",)
                    error.message = error.args[0]
                error.facts.setdefault("filename", name)
                raise
        for column, header in self.columns.attributes.items():
            if column not in seen:
                raise missing_column(header, column, tuple(seen), f"Folder '{self.folder.name}'")

    def _of_file(self, path: Path, name: str, seen: dict[str, None]) -> Iterator[dict[str, Any]]:
        form = names.form_of(path.name)
        if form.form == names.TEXT:
            yield from self._texts(path, name, form.packing)
            return
        reader = RecordReader(self.columns, name, "Row" if form.form == names.PARQUET else "Line")
        for number, row in self._rows(path, name, form, seen):
            reader.document(row, number)
            seen.update(dict.fromkeys(row))
            yield self._cut(row)

    def _rows(
        self, path: Path, name: str, form: names.FileForm, seen: dict[str, None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        if form.form == names.PARQUET:
            found = rows(path, self.columns.wanted)
            header = next(found, {})
            seen.update(header)
            check_schema(Columns(text=self.columns.text, messages=self.columns.messages), tuple(header), name)
            yield from enumerate(found, 1)
            return
        for number, line in self._split(path, name, form.packing, Splitter(name, limit=MAX_LINE_BYTES)):
            text = decode(line, number, name)
            if text:
                yield number, parse_record(text, number, name)

    def _texts(self, path: Path, name: str, packing: str) -> Iterator[dict[str, Any]]:
        if self.columns.messages and not self.columns.text:
            raise InvalidInput.field(
                "messages_column",
                self.columns.messages,
                "nothing for a text file, which has no columns",
                f"Name text_column too ({TEXT}), or take the text files out of the folder.",
            )
        whole = self.whole_files or ".md" in path.name.lower()[-7:]
        unit, limit, end = "Line", MAX_TEXT_LINE_BYTES, b"\n"
        if whole or self.separator:
            # no text holds a NUL: nothing ends a document but the file
            end = b"\x00" if whole else self.separator.replace("\r\n", "\n").encode()
            unit, limit = "Document", MAX_DOCUMENT_BYTES
        splitter = Splitter(name, limit=limit, end=end, unit=unit)
        for number, piece in self._split(path, name, packing, splitter, unify=unit == "Document"):
            text = decode(piece, number, name, unit)
            if text:
                yield self._cut({self.columns.content[0]: text})

    def _split(
        self, path: Path, name: str, packing: str, splitter: Splitter, *, unify: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        unpacked, ends, sniffer = unpacker(packing, name), LineEnds(), Sniffer(name)
        with path.open("rb") as handle:
            while data := handle.read(_READ_BYTES):
                for piece in unpacked.feed(data):
                    sniffer.feed(piece)
                    yield from splitter.feed(ends.feed(piece) if unify else piece)
        unpacked.finish()
        yield from splitter.feed(ends.finish())
        yield from splitter.finish()

    def _cut(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Only the columns that are read; those that travel along are always there."""
        kept = {name: row[name] for name in self.columns.content if name in row}
        return kept | {name: row.get(name) for name in self.columns.attributes}


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(record).encode() + b"\n"
