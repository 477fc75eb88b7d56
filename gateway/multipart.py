"""One file out of a multipart/form-data body, piece by piece.

Takes exactly one part named `file`; its filename is display metadata only. Holds no more than the piece it
was given.
"""

from __future__ import annotations

from collections.abc import Iterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mistudio_core.errors import InvalidInput

PART = "file"


class FilePart:
    """Feeds bytes in, gets bytes of the file out."""

    def __init__(self, content_type: str) -> None:
        """`content_type` is the header of the request. Raises InvalidInput where it is not multipart."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput.field("content-type", content_type, f"multipart/form-data with a part {PART!r}")
        self.filename: str | None = None
        """Name of the file, as soon as its part has begun."""
        self.complete = False
        """Whether the closing boundary was seen."""
        self._data: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed() from error

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The bytes of the file in this piece of the body."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed() from error
        data, self._data = self._data, []
        yield from data

    def finish(self) -> None:
        """Raises InvalidInput where the body held no file or broke off."""
        if self.filename is None:
            raise _missing()
        if not self.complete:
            raise _malformed()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != PART:
            raise InvalidInput.field(name or "part", "", f"one part named {PART!r}", reason="UNKNOWN_FIELD")
        if self.filename is not None:
            raise InvalidInput.field(PART, "", "one file in a request")
        raw = options.get(b"filename")
        if raw is None:
            raise _missing()
        try:
            self.filename = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput.field("filename", "", "UTF-8", reason="BAD_FILE_NAME") from error

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _on_end(self) -> None:
        self.complete = True


def _malformed() -> InvalidInput:
    return InvalidInput.field("body", "", "a complete multipart/form-data body")


def _missing() -> InvalidInput:
    return InvalidInput.field(PART, "", "a file: a part with a filename", f"With curl: -F {PART}=@corpus.txt")
