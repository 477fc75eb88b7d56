"""Cuts a stream of bytes into documents: at line ends, or at a separator. In bounded memory.

Owns numbers of lines and documents and the errors that name them; parses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from mistudio_core.corpus.columns import too_long
from mistudio_core.errors import InvalidInput

_SNIFF_BYTES = 4096
_CONTROL = bytes(set(range(32)) - {9, 10, 12, 13}) + b"\x7f"
_BOM = b"\xef\xbb\xbf"


class Splitter:
    """Bytes in, numbered pieces out; the ends of pieces are not part of them."""

    def __init__(self, name: str, *, limit: int, end: bytes = b"\n", unit: str = "Line") -> None:
        """`limit`: longest piece, bytes; `end` is what pieces end with; `unit` is what messages call them."""
        self.number = 0
        """Pieces so far."""
        self._name, self._limit, self._end, self._unit = name, limit, end, unit
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(number from 1, piece) for every piece that ends in `data`. Raises InvalidInput (CORPUS_LINE_TOO_LONG)."""
        *pieces, rest = (self._rest + data).split(self._end)
        self._rest = b""
        for piece in pieces:
            yield self._piece(piece)
        if len(rest) > self._limit:
            raise too_long(self._unit, self.number + 1, self._name, self._limit)
        self._rest = rest

    def finish(self) -> Iterator[tuple[int, bytes]]:
        """The last piece, where it has no end."""
        if self._rest:
            yield self._piece(self._rest)

    def _piece(self, piece: bytes) -> tuple[int, bytes]:
        self.number += 1
        if len(piece) > self._limit:
            raise too_long(self._unit, self.number, self._name, self._limit)
        return self.number, piece


class LineEnds:
    """Turns CR LF into LF, across pieces: a separator of two line ends must match both kinds of files."""

    def __init__(self) -> None:
        """Before the first piece."""
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes with line ends unified; a CR at the end waits for what follows."""
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        return data[: len(data) - len(self._held)].replace(b"\r\n", b"\n")

    def finish(self) -> bytes:
        """What waited."""
        held, self._held = self._held, b""
        return held


class Sniffer:
    """Refuses what is no text: a NUL, or more than 5 % control characters at the start."""

    def __init__(self, name: str) -> None:
        """`name` is the file's, for messages."""
        self._name, self._head, self._line = name, b"", 1

    def feed(self, data: bytes) -> None:
        """Looks at the next bytes. Raises InvalidInput (CORPUS_BINARY)."""
        if len(self._head) < _SNIFF_BYTES:
            self._head += data[: _SNIFF_BYTES - len(self._head)]
            control = sum(self._head.count(byte) for byte in _CONTROL)
            if control > 0.05 * len(self._head):
                raise self._binary(1)
        at = data.find(b"\x00")
        if at >= 0:
            raise self._binary(self._line + data.count(b"\n", 0, at))
        self._line += data.count(b"\n")

    def _binary(self, line: int) -> InvalidInput:
        return InvalidInput(
            f"Corpus file '{self._name}' is not text: line {line} holds control characters. "
            "Upload UTF-8 text, one document a line, or JSONL; packed files need their ending (.gz, .zst, .parquet).",
            reason="CORPUS_BINARY",
            facts={"filename": self._name, "line": line},
        )


def decode(piece: bytes, number: int, name: str, unit: str = "Line") -> str:
    """The text of a piece, without outer white space and a byte-order mark. Raises InvalidInput (CORPUS_NOT_UTF8)."""
    if number == 1 and piece.startswith(_BOM):
        piece = piece[len(_BOM) :]
    try:
        return piece.decode().strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{unit} {number} of corpus file '{name}' is not valid UTF-8. Save the file as UTF-8.",
            reason="CORPUS_NOT_UTF8",
            facts={unit.lower(): number},
        ) from error
