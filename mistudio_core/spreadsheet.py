"""Text in a cell that a spreadsheet opens: never a formula, on one line, nothing unseen.

Corpus text is anyone's. Nothing is dropped silently: what cannot stay is shown as U+FFFD.
"""

from __future__ import annotations

import re

_SIGN = re.compile(r"[=+\-@＝＋－＠]")
_FORMULA = re.compile(r"(^|[,;|\t\r\n\"'])(\s*)([=+\-@＝＋－＠])")
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def cell_text(text: str) -> str:
    """The text without controls and signs of direction.

    ' stands before whatever a spreadsheet would read as a formula, also after a delimiter or quote inside.
    """
    shown = text.replace("\t", " ").replace("\r", " ").replace("\n", " ")
    if not shown.isprintable():
        shown = _INVISIBLE.sub("\ufffd", shown)
    return _FORMULA.sub(r"\1'\2\3", shown) if _SIGN.search(shown) else shown
