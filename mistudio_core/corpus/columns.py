"""From a record of a JSONL file, a Parquet file or a dataset to a document: which column is what.

Owns the checks of values (text is a string, a label is short, a time is a time) and the errors that
name a line or row. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from mistudio_core.corpus.documents import Document, microseconds
from mistudio_core.errors import FieldProblem, InvalidInput, LimitReached

TEXT, MESSAGES = "text", "messages"
"""Default columns."""
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""Longest document of a record or between separators, bytes of UTF-8."""
MAX_LABEL_CHARACTERS = 200
"""Longest label or group."""
MAX_NAME_CHARACTERS = 200
MAX_LABEL_COLUMNS = 20
_MAX_MESSAGES = 10_000
_SHOWN_COLUMNS = 30
_KEPT_COLUMNS = 200
_MILLISECONDS_FROM = 1e11
"""A number from here on is taken as milliseconds: in seconds it would lie after the year 5000."""
_ROLE_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column of a record is what; empty for none or the default."""

    text: str = ""
    """Column of the text; empty: `text`, unless only `messages` is named."""
    messages: str = ""
    """Column of a chat; empty: `messages`, unless only `text` is named."""
    labels: tuple[str, ...] = ()
    """Columns of labels."""
    group: str = ""
    """Column of the group."""
    time: str = ""
    """Column of the time."""

    def __post_init__(self) -> None:
        named = [name for name in (self.text, self.messages, *self.labels, self.group, self.time) if name]
        for name in named:
            if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
                raise InvalidInput.field("column", name, f"1 to {MAX_NAME_CHARACTERS} printable characters")
        doubled = next((name for name in named if named.count(name) > 1), None)
        if doubled is not None:
            raise InvalidInput.field("column", doubled, "a column named once", "Name another column.")
        if len(self.labels) > MAX_LABEL_COLUMNS or "" in self.labels:
            raise InvalidInput.field("label_columns", ", ".join(self.labels), f"at most {MAX_LABEL_COLUMNS} names")

    @property
    def any_named(self) -> bool:
        """Whether any column is named."""
        return bool(self.text or self.messages or self.labels or self.group or self.time)

    @property
    def content(self) -> tuple[str, ...]:
        """Columns that may hold what a document says, the first that is there wins."""
        if self.text or self.messages:
            return tuple(name for name in (self.text, self.messages) if name)
        return (TEXT, MESSAGES)

    @property
    def attributes(self) -> dict[str, str]:
        """Header field by each named column that travels along."""
        named = dict.fromkeys(self.labels, "label_columns")
        if self.group:
            named[self.group] = "group_column"
        if self.time:
            named[self.time] = "time_column"
        return named

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (*self.content, *self.attributes)

    def is_chat(self, column: str) -> bool:
        """Whether a content column holds messages."""
        return column == (self.messages or (MESSAGES if not self.text else ""))


class RecordReader:
    """Turns records into documents and remembers what was seen."""

    def __init__(self, columns: Columns, name: str, unit: str = "Line") -> None:
        """`name` and `unit` (`Line`, `Row`) are for messages."""
        self.columns = columns
        self.seen: dict[str, None] = {}
        """Names of columns in order of appearance, at most 200."""
        self.blank = 0
        """Records without text, left out."""
        self.repaired = 0
        """Records with half characters (lone surrogates), which were replaced."""
        self.dropped_keys: dict[str, None] = {}
        """Fields of messages that are not read, at most 200."""
        self.both = 0
        """Records with text and messages, neither of them named."""
        self._name, self._unit = name, unit

    def document(self, record: object, number: int) -> Document | None:
        """The document of record `number` (from 1); None where it is blank.

        Raises InvalidInput (CORPUS_RECORD_INVALID, INVALID_FIELD, CORPUS_LINE_TOO_LONG), LimitReached.
        """
        if not isinstance(record, dict):
            raise self._invalid(number, f"is {_kind(record)}, not an object with columns")
        self._note(record)
        text, messages = self._content(record, number)
        if not messages and (not text or text.isspace()):
            self.blank += 1
            return None
        columns = self.columns
        labels = {c: v for c in columns.labels if (v := self._label(record, c, number))} if columns.labels else {}
        return Document(
            text=text,
            messages=messages,
            labels=labels,
            group=self._label(record, columns.group, number) if columns.group else "",
            time=self._time(record, number) if columns.time else None,
        )

    def finish(self) -> None:
        """Raises InvalidInput for a named column that no record has."""
        if not self.seen:
            return
        for column, header in self.columns.attributes.items():
            if column not in self.seen and len(self.seen) < _KEPT_COLUMNS:
                raise missing_column(header, column, tuple(self.seen), f"Corpus file '{self._name}'")

    def _note(self, record: Mapping[str, object]) -> None:
        for column in record:
            if column not in self.seen and len(self.seen) < _KEPT_COLUMNS:
                self.seen[column[:MAX_NAME_CHARACTERS]] = None

    def _content(self, record: Mapping[str, Any], number: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        columns = self.columns
        there = [c for c in columns.content if record.get(c) is not None]
        if not there:
            return self._no_content(record, number)
        if len(there) > 1 and not columns.text:
            self.both += 1
        column = there[0]
        value = record[column]
        if columns.is_chat(column):
            return "", self._messages(value, column, number)
        if not isinstance(value, str):
            raise self._invalid(number, f"has {_kind(value)} in column {column!r}, not a string")
        text = self._whole(value)
        self._check_length(len(text), text, number)
        return text, ()

    def _no_content(self, record: Mapping[str, Any], number: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        null = next((c for c in self.columns.content if c in record), None)
        if null is not None:
            raise self._invalid(number, f"has null in column {null!r}, not a string")
        header = "text_column" if self.columns.text or not self.columns.messages else "messages_column"
        wanted = " or ".join(map(repr, self.columns.content))
        where = f"{self._unit} {number} of corpus file '{self._name}'"
        raise missing_column(header, self.columns.content[0], tuple(record), where, wanted)

    def _messages(self, value: object, column: str, number: int) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, list) or len(value) > _MAX_MESSAGES:
            raise self._invalid(number, f"has {_kind(value)} in column {column!r}, not a list of messages")
        found: list[tuple[str, str]] = []
        for message in value:
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if not isinstance(role, str) or not isinstance(content, str) or not 0 < len(role) <= _ROLE_CHARACTERS:
                raise self._invalid(
                    number, f"has a message in column {column!r} that is no object with the strings role and content"
                )
            found.append((self._whole(role), self._whole(content)))
            for key in message.keys() - {"role", "content"}:
                if message[key] is not None and len(self.dropped_keys) < _KEPT_COLUMNS:
                    self.dropped_keys[str(key)[:MAX_NAME_CHARACTERS]] = None
        said = "".join(content for _, content in found)
        self._check_length(len(said), said, number)
        return tuple(found) if said.strip() else ()

    def _label(self, record: Mapping[str, Any], column: str, number: int) -> str:
        value = record.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise self._invalid(number, f"has {_kind(value)} in column {column!r}, not a string or a number")
        text = self._whole(str(value)).strip()
        if len(text) > MAX_LABEL_CHARACTERS:
            raise self._invalid(
                number, f"has a value of {len(text)} characters in column {column!r}; most are {MAX_LABEL_CHARACTERS}"
            )
        return text

    def _time(self, record: Mapping[str, Any], number: int) -> int | None:
        column = self.columns.time
        value = record.get(column)
        if value is None or value == "":
            return None
        try:
            return moment(value)
        except (ValueError, OverflowError, TypeError) as error:
            what = repr(value)[:60]
            raise self._invalid(
                number, f"has {what} in column {column!r}, not a time (ISO 8601, or seconds since 1970)"
            ) from error

    def _whole(self, text: str) -> str:
        """The text with lone surrogates, which no UTF-8 can hold, replaced."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.repaired += 1
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def _check_length(self, characters: int, text: str, number: int) -> None:
        # UTF-8 has at most four bytes a character: most texts need no count of their bytes
        if characters * 4 > MAX_DOCUMENT_BYTES and len(text.encode()) > MAX_DOCUMENT_BYTES:
            raise too_long(self._unit, number, self._name, MAX_DOCUMENT_BYTES)

    def _invalid(self, number: int, what: str) -> InvalidInput:
        return invalid_record(self._unit, number, self._name, what)


class LabelCounts:
    """How often each value of each label column stands there, in bounded memory."""

    MOST_VALUES = 10_000
    """Most different values of a label column."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        """For the label columns."""
        self.counts: dict[str, dict[str, int]] = {column: {} for column in columns}

    def add(self, labels: Mapping[str, str]) -> None:
        """Counts the labels of a document. Raises LimitReached for a column that is none of labels."""
        for column, value in labels.items():
            counts = self.counts[column]
            counts[value] = counts.get(value, 0) + 1
            if len(counts) > self.MOST_VALUES:
                raise LimitReached(
                    f"Label column {column!r} has more than {self.MOST_VALUES:,} different values, so it is no label. "
                    "Name it as group_column, or leave it out.",
                    facts={"label_column": column, "most_values": self.MOST_VALUES},
                )


def moment(value: object) -> int:
    """Microseconds since 1970 of ISO 8601, of seconds or milliseconds since 1970, or of a datetime.

    A time without a zone is UTC. Raises ValueError, TypeError, OverflowError.
    """
    if isinstance(value, datetime):
        return microseconds(value)
    if isinstance(value, date):
        return microseconds(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, str):
        text = value.strip()
        if text.replace(".", "", 1).lstrip("-").isdecimal() and len(text.split(".")[0]) != 8:  # 8: a compact date
            return moment(float(text))
        return microseconds(datetime.fromisoformat(text))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} is no time")
    seconds = value / 1000 if abs(value) >= _MILLISECONDS_FROM else value
    return microseconds(datetime.fromtimestamp(seconds, UTC))


def missing_column(
    header: str, column: str, there: tuple[str, ...], where: str, wanted: str | None = None
) -> InvalidInput:
    """The error for a column that is not there, with those that are."""
    names = ", ".join(name[:MAX_NAME_CHARACTERS] for name in there[:_SHOWN_COLUMNS]) or "none"
    names += ", ..." if len(there) > _SHOWN_COLUMNS else ""
    return InvalidInput(
        f"{where} has no column {wanted or repr(column)}; the columns are: {names}. Name one of them as {header}.",
        reason="CORPUS_COLUMN_MISSING",
        facts={"field": header, "column": column, "columns": names},
        problems=[FieldProblem(field=header, value=column, allowed=names, remedy=f"Name one of them as {header}.")],
    )


def invalid_record(unit: str, number: int, name: str, what: str) -> InvalidInput:
    """The error for a record that is no document."""
    return InvalidInput(
        f"{unit} {number} of corpus file '{name}' {what}. Nothing was kept; correct it and upload again.",
        reason="CORPUS_RECORD_INVALID",
        facts={unit.lower(): number, "filename": name},
    )


def too_long(unit: str, number: int, name: str, limit: int) -> InvalidInput:
    """The error for a document or line over its limit."""
    hint = "Put one document on a line." if unit == "Line" else "Split it."
    return InvalidInput(
        f"{unit} {number} of corpus file '{name}' is longer than {limit // 1024**2} MiB. {hint}",
        reason="CORPUS_LINE_TOO_LONG",
        facts={unit.lower(): number, "limit_bytes": limit},
    )


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
