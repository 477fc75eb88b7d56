"""Corpus text made harmless for what opens a file: spreadsheets, XML parsers, terminals.

Corpus text is anyone's. Nothing is dropped silently: what cannot stay is shown as a visible sign.
"""

from __future__ import annotations

import re

from mistudio_core.spreadsheet import cell_text

_PICTURES = {code: chr(0x2400 + code) for code in range(32)} | {0x7F: "\u2421"}
# Characters that XML 1.0 has no way to write (section 2.2).
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_NOT_IN_XML_TEXT = re.compile("[\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# C0, DEL, C1, the soft hyphen, zero-width and bidi controls, line separators, the byte-order mark, tags.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def xml_visible(text: str) -> str:
    """The text as XML 1.0 can hold it, which is what a parser gives back.

    A control character becomes its picture (U+2400 + code), a non-character U+FFFD.
    """
    return _NOT_XML.sub(lambda m: _PICTURES.get(ord(m[0]), "\ufffd"), text)


def xml_escape(text: str) -> str:
    """Character data of an XML element; carriage returns survive a parser's end-of-line handling."""
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _NOT_IN_XML_TEXT.sub(_xml_sign, shown) if _NOT_IN_XML_TEXT.search(shown) else shown


def _xml_sign(match: re.Match[str]) -> str:
    character = match[0]
    return "&#13;" if character == "\r" else _PICTURES.get(ord(character), "\ufffd")


def terminal_visible(text: str) -> str:
    """One line that a terminal shows as it is: control characters as their pictures, others as <U+202E>."""
    return _UNSEEN.sub(_terminal_sign, text) if _UNSEEN.search(text) else text


def _terminal_sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _PICTURES.get(code) or f"<U+{code:04X}>"


def spreadsheet_text(text: str, longest: int) -> str:
    """A quoted cell of at most `longest` characters of the text, safe as `cell_text` makes it."""
    return '"' + cell_text(text[:longest]).replace('"', '""') + '"'
