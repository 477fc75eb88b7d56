"""Splits text of any script into words, the same way for Find and Explain.

Spaced scripts give words with their marks and apostrophes; runs of unspaced scripts (Han, kana,
Thai, Lao, Khmer, Burmese) give overlapping character pairs. No dictionary, no language detection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Python's \w lacks combining marks: without them a Hindi or vocalised Arabic word falls apart.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_LETTER = rf"(?:[^\W_{_UNSPACED}]|[{_MARKS}])"
_WORDS = re.compile(rf"(?P<run>[{_UNSPACED}\U00020000-\U0003ffff]+)|{_LETTER}+(?:['’]{_LETTER}+)*")
_ENDINGS = ("ations", "ation", "ingly", "edly", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "ly", "y", "s")
_SHORTEST_STEM = 3


def words(text: str) -> Iterator[tuple[str, int, int]]:
    """(casefolded word, first character, character after the last) in order of the text."""
    for match in _WORDS.finditer(text):
        start, end = match.span()
        if match.lastgroup != "run" or end - start <= 2:
            yield match.group().casefold(), start, end
            continue
        for at in range(start, end - 1):
            yield text[at : at + 2], at, at + 2


def stem(word: str) -> str:
    """The word without a common English ending: a rough key under which its forms meet.

    `returns`, `returned` and `returning` share one; other scripts come back as they are.
    """
    if not word.isascii():
        return word
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)].rstrip("e") or word
    return word.rstrip("e") if len(word) > _SHORTEST_STEM else word
