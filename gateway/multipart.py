"""One file out of a multipart/form-data body, piece by piece, and the few texts before it.

Takes exactly one part named `file`; its filename is display metadata only. Holds no more than the piece it
was given and the texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mistudio_core.errors import InvalidInput

PART = "file"
_MOST_TEXTS, _TEXT_BYTES = 100, 64 * 1024


class FilePart:
    """Feeds bytes in, gets bytes of the file out."""

    def __init__(self, content_type: str, fields: Collection[str] = ()) -> None:
        """`content_type` is the header of the request; `fields` may stand before the file.

        Raises InvalidInput where it is not multipart.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput.field("content-type", content_type, f"multipart/form-data with a part {PART!r}")
        self.filename: str | None = None
        """Name of the file, as soon as its part has begun."""
        self.complete = False
        """Whether the closing boundary was seen."""
        self.texts: dict[str, list[str]] = {}
        """Values of the fields; complete as soon as the file has begun."""
        self._fields = frozenset(fields)
        self._text: tuple[str, bytearray] | None = None
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
                    "on_part_end": self._on_part_end,
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
        if name in self._fields:
            self._begin_text(name)
            return
        if name != PART:
            raise self._unknown(name)
        if self.filename is not None:
            raise InvalidInput.field(PART, "", "one file in a request")
        raw = options.get(b"filename")
        if raw is None:
            raise _missing()
        try:
            self.filename = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput.field("filename", "", "UTF-8", reason="BAD_FILE_NAME") from error

    def _begin_text(self, name: str) -> None:
        if self.filename is not None:
            raise InvalidInput.field(name, "", f"before the part {PART!r}: the file is passed on as it arrives")
        if sum(map(len, self.texts.values())) >= _MOST_TEXTS:
            raise InvalidInput.field(name, "", f"at most {_MOST_TEXTS} fields before the file")
        self._text = name, bytearray()

    def _unknown(self, name: str) -> InvalidInput:
        others = f"; before it {', '.join(sorted(self._fields))}" if self._fields else ""
        return InvalidInput.field(name or "part", "", f"one part named {PART!r}{others}", reason="UNKNOWN_FIELD")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            self._data.append(data[start:end])
            return
        name, text = self._text
        text += data[start:end]
        if len(text) > _TEXT_BYTES:
            raise InvalidInput.field(name, "", f"at most {_TEXT_BYTES} bytes")

    def _on_part_end(self) -> None:
        if self._text is None:
            return
        name, text = self._text
        try:
            self.texts.setdefault(name, []).append(text.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput.field(name, "", "UTF-8") from error
        self._text = None

    def _on_end(self) -> None:
        self.complete = True


def _malformed() -> InvalidInput:
    return InvalidInput.field("body", "", "a complete multipart/form-data body")


def _missing() -> InvalidInput:
    return InvalidInput.field(PART, "", "a file: a part with a filename", f"With curl: -F {PART}=@corpus.txt")
