"""Documents of a text corpus: one a non-blank line, UTF-8; and which of them are held out.

Pure Python. Uploads were checked before they became a corpus artifact; bytes that are no UTF-8
are refused here too. The corpus artifact holds one file, `corpus.txt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from mistudio_core.errors import InvalidInput

CORPUS_FILE = "corpus.txt"
"""Name of the one file in a corpus artifact."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that is read, bytes."""


def iter_documents(path: Path) -> Iterator[str]:
    """Every document of a text file, in order, outer white space removed.

    Raises InvalidInput (CORPUS_NOT_UTF8, CORPUS_LINE_TOO_LONG) naming the line.
    """
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
            text = _decode(line, number)
            if text:
                yield text


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


def is_heldout(text: str, fraction: float) -> bool:
    """Whether a document is held out: a function of its text alone, so copies fall on the same side."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64
