"""A digest over a JSON document that stands in the document itself, so that a change of one letter shows.

Canonical form: keys sorted, no blanks, UTF-8 without escapes, numbers as Python writes them; SHA-256 over it
without the seal. It proves that a document is whole, not who made it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from mistudio_core.errors import InvalidInput

KEY = "digest"
"""Where the seal stands in a document."""
HOLDER = "sealed"
"""Id of the element of a page that holds the document, base64 of its canonical form."""
_METHOD = "sha256 of the canonical JSON without this key"
_HEX = re.compile(r"\b[0-9a-f]{64}\b")
_STREAM = re.compile(rb"<<(?:[^<>]|<<[^<>]*>>)*?/EmbeddedFile\b.*?stream\r?\n", re.DOTALL)


def canonical(body: Mapping[str, Any]) -> bytes:
    """The canonical form of a document, its seal included where it has one."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a document without its seal."""
    return hashlib.sha256(canonical({k: v for k, v in body.items() if k != KEY})).hexdigest()


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its seal."""
    return {**body, KEY: {"method": _METHOD, "sha256": digest_of(body)}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check found."""

    form: str
    """`json`, `html` or `pdf`."""
    stated: str
    """The digest that the file states."""
    found: str
    """The digest of what it holds."""
    document: Mapping[str, Any]
    """What it holds."""

    @property
    def intact(self) -> bool:
        """Whether both are the same."""
        return hmac.compare_digest(self.stated, self.found)


def verify(data: bytes) -> Verdict:
    """Checks a sealed JSON document, or the page or PDF that holds one. Raises InvalidInput for any other file."""
    if data.startswith(b"%PDF-"):
        form, held, shown = "pdf", _from_pdf(data), ""
    elif data.lstrip()[:1] == b"{":
        form, held, shown = "json", data, ""
    else:
        form = "html"
        held, shown = _from_page(data)
    try:
        body = json.loads(held)
        stated = str(body[KEY]["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unknown() from error
    # a page also shows the digest to people: what they read must be what is sealed
    told = shown if shown and shown != stated else stated
    return Verdict(form=form, stated=told, found=digest_of(body), document=body)


class _Holder(HTMLParser):
    """Text of the element that holds the document, and of the one that shows the digest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, list[str]] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins to collect."""
        if (name := dict(attrs).get("id")) in (HOLDER, KEY):
            self._inside = name or ""
            self.texts.setdefault(self._inside, [])

    def handle_endtag(self, tag: str) -> None:
        """Ends collecting."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Collects."""
        if self._inside:
            self.texts[self._inside].append(data)


def _from_page(data: bytes) -> tuple[bytes, str]:
    page = _Holder()
    page.feed(data.decode("utf-8", "replace"))
    text = "".join("".join(page.texts.get(HOLDER, ())).split())
    shown = _HEX.findall("".join(page.texts.get(KEY, ())))
    if not text or len(shown) != 1:
        raise _unknown()
    try:
        return base64.b64decode(text, validate=True), shown[0]
    except ValueError as error:
        raise _unknown() from error


def _from_pdf(data: bytes) -> bytes:
    """The attachment that is a sealed document."""
    for body in _attachments(data):
        if body.lstrip()[:1] == b"{" and f'"{KEY}"'.encode() in body:
            return body
    raise _unknown()


def _attachments(data: bytes) -> Iterator[bytes]:
    """Attached files of a PDF as our own writer stores them: whole objects, deflated or plain."""
    for found in _STREAM.finditer(data):
        end = data.find(b"endstream", found.end())
        raw = data[found.end() : end]
        try:
            yield zlib.decompressobj().decompress(raw, 256 << 20) if b"FlateDecode" in found.group() else raw
        except zlib.error:
            continue


def _unknown() -> InvalidInput:
    return InvalidInput.field(
        "file",
        "a file without a seal",
        "an audit report of miStudio as JSON, HTML or PDF",
        "Export one: mistudio export JOB --format audit_json.",
    )
