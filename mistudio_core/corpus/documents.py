"""Documents of a corpus artifact: text or chat with what travels along, and which of them are held out.

An artifact holds `corpus.txt` (plain text, one document a non-blank line) or `corpus.jsonl` (canonical
records), and `about.json`. Uploads were checked before they became an artifact; bytes that cannot be
read are refused here too. No tokenizer and no artifact store here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mistudio_core.errors import Corrupt, InvalidInput

CORPUS_TEXT = "corpus.txt"
"""The corpus as plain text."""
CORPUS_RECORDS = "corpus.jsonl"
"""The corpus as records."""
ABOUT_FILE = "about.json"
"""Where it comes from, with its statistics."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that is read, bytes."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document: a text or a chat, never both."""

    text: str = ""
    """The text; empty for a chat."""
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) of each message of a chat; empty for a text."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Value of each label column; columns in which it has none are left out."""
    group: str = ""
    """The group that it belongs to (author, customer, source); empty for none."""
    time: int | None = None
    """Microseconds since 1970 (UTC); None for none."""

    @property
    def content(self) -> str:
        """What the document says, outer white space aside: two documents of the same content are copies."""
        if not self.messages:
            return self.text.strip()
        return json.dumps(self.messages, ensure_ascii=False, separators=(",", ":"))

    @property
    def characters(self) -> int:
        """Characters of its text, or of all its messages together."""
        return len(self.text) + sum(len(content) for _, content in self.messages)

    def line(self) -> bytes:
        """The document as a line of `corpus.jsonl`."""
        body: dict[str, Any] = {"text": self.text}
        if self.messages:
            body = {"messages": [{"role": role, "content": content} for role, content in self.messages]}
        if self.labels:
            body["labels"] = dict(self.labels)
        if self.group:
            body["group"] = self.group
        if self.time is not None:
            body["time"] = time_text(self.time)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> Document:
        """Reads what `line` wrote. Raises ValueError, KeyError, TypeError, AttributeError for anything else."""
        body = json.loads(line)
        time = body.get("time")
        return Document(
            text=body.get("text", ""),
            messages=tuple((m["role"], m["content"]) for m in body.get("messages", ())),
            labels=body.get("labels") or {},
            group=body.get("group", ""),
            time=None if time is None else microseconds(datetime.fromisoformat(time)),
        )


def time_text(time: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    return (_EPOCH + time * _MICROSECOND).isoformat().replace("+00:00", "Z")


def microseconds(time: datetime) -> int:
    """A moment as microseconds since 1970; one without a zone is taken as UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def iter_documents(path: Path) -> Iterator[Document]:
    """Every document of `corpus.txt` or `corpus.jsonl`, in order.

    Raises InvalidInput (CORPUS_NOT_UTF8, CORPUS_LINE_TOO_LONG) naming the line; Corrupt for a broken record.
    """
    records = path.suffix == Path(CORPUS_RECORDS).suffix
    for number, line in _lines(path):
        if not records:
            text = _decode(line, number)
            if text:
                yield Document(text=text)
            continue
        try:
            yield Document.parse(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                f"Line {number} of the stored corpus is no record of miStudio. Upload the corpus again."
            ) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line."""
    with path.open("rb") as handle:
        number = 0
        while line := handle.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InvalidInput(
                    f"Line {number} of the corpus is longer than {MAX_LINE_BYTES} bytes. Put one document on a line.",
                    reason="CORPUS_LINE_TOO_LONG",
                    facts={"line": number, "limit_bytes": MAX_LINE_BYTES},
                )
            yield number, line


def _decode(line: bytes, number: int) -> str:
    """The line's text, stripped of outer white space and of a byte-order mark on line 1."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"Line {number} of the corpus is not valid UTF-8. Save the file as UTF-8.",
            reason="CORPUS_NOT_UTF8",
            facts={"line": number},
        ) from error


def content_digest(content: str) -> bytes:
    """SHA-256 of a document's content."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


def is_heldout(content: str, fraction: float) -> bool:
    """Whether a document is held out: a function of its content alone, so copies fall on the same side."""
    return int.from_bytes(content_digest(content)[:8], "big") < fraction * 2.0**64
