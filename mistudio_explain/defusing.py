"""Corpus text made harmless for a prompt: what a chat template would take for control is broken up.

Owns the signs only; where text stands in a prompt is prompting.py's. Text stays readable: a space
goes into what looks like a control token, invisible signs go out.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE_KEPT = "\n\t\u200c\u200d"
_CLEAN = re.compile(r"[\x20-\x7e\n\t\u27e6\u27e7]*")
# Special tokens are exact strings: one space inside and they are text. Fullwidth forms may be folded by a tokenizer.
_BARS = re.compile(r"([<\uff1c])(?=[|\uff5c])|([|\uff5c])(?=[>\uff1e])")
_TAGS = re.compile(r"([<\uff1c])(?=/?[A-Za-z_\u2581][\w\u2581./:-]{0,60}[>\uff1e])")
_SQUARE = re.compile(r"(\[)(?=/?[A-Z_]{3,40}\])")
_DOUBLED = re.compile(r"([<\uff1c])(?=[<\uff1c])|([>\uff1e])(?=[>\uff1e])")


def plain(text: str) -> str:
    """Valid Unicode without control, direction and invisible signs; newlines, tabs and joiners stay."""
    if _CLEAN.fullmatch(text):
        return text
    valid = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    return "".join(c for c in valid if c in _INVISIBLE_KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn"))


def defuse(text: str) -> str:
    """The text with a space inside of whatever looks like a control token of a chat template or like a marker."""
    for pattern in (_BARS, _TAGS, _SQUARE, _DOUBLED):
        text = pattern.sub(lambda found: found.group() + " ", text)
    return text
