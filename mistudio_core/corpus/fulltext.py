"""Words in texts: what is indexed, how a person's words become a query, and where they stand in a text.

The index splits at everything that is no letter, mark or digit. Scripts that are written without
blanks are indexed by the character, so that any run of them is found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mistudio_core.errors import InvalidInput

TOKENIZER = "unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
"""How SQLite splits what `indexable` returns."""
MOST_WORDS = 32
"""Words and phrases that one query may have."""
_UNSPACED = re.compile(
    "(["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u109f"  # Tibetan, Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u9fff"  # Han, kana
    "\ua000-\ua4cf"  # Yi
    "\uf900-\ufaff\U00020000-\U0003ffff"  # Han, compatibility and supplements
    "])"
)
_PIECE = re.compile(r'"([^"]*)"?|([^\s"]+)')
_BEFORE, _AFTER = 60, 140


@dataclass(frozen=True, slots=True)
class Words:
    """A query: every part must be there."""

    parts: tuple[str, ...]
    """Words and phrases as given, without quotes."""
    beginnings: frozenset[str] = frozenset()
    """Those of the parts that any word may go on from."""

    @staticmethod
    def parse(field: str, text: str, *, beginnings: bool = False) -> Words:
        """From words and "quoted phrases"; with `beginnings`, `word*` is any word that begins so.

        Raises InvalidInput, naming `field`.
        """
        pieces = [(quoted or bare, not quoted) for quoted, bare in _PIECE.findall(text)]
        parts = tuple(piece for piece, _ in pieces if searchable(piece))
        begun = frozenset(p for p, plain in pieces if beginnings and plain and p.endswith("*"))
        if not parts:
            raise InvalidInput.field(field, text, "at least one word", "Give a word with a letter or a digit.")
        if len(parts) > MOST_WORDS:
            raise InvalidInput.field(field, text, f"at most {MOST_WORDS} words", "Leave the commonest ones out.")
        return Words(parts, begun)

    @property
    def match(self) -> str:
        """The FTS5 expression; every part is quoted, so that nothing in it is syntax."""
        return " AND ".join(phrase(part) + (" *" if part in self.beginnings else "") for part in self.parts)


def searchable(text: str) -> bool:
    """Whether there is anything in it that the index holds."""
    return any(unicodedata.category(c)[0] in "LN" for c in text)


def phrase(part: str) -> str:
    """A word or phrase as an FTS5 string; what is no letter or digit in it only separates."""
    return '"' + indexable(part).replace('"', " ").replace("\x00", " ") + '"'


def indexable(text: str) -> str:
    """A text as it goes into the index: compatibility forms unified, unspaced scripts set apart."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode("utf-8"))
    return _UNSPACED.sub(r" \1 ", plain)


def joined(texts: Iterable[str], limit: int) -> str:
    """Texts for the index, the first ones, at most about `limit` characters."""
    kept, room = [], limit
    for text in texts:
        if room <= 0:
            break
        kept.append(indexable(text[:room]))
        room -= len(text)
    return "\n".join(kept)


def snippet(texts: Sequence[str], words: Words) -> str:
    """About 200 characters around the words in the text that holds most of them; the first text where none does."""
    wanted = [part.casefold() for part in words.parts]
    best, at, most = "", 0, -1
    for text in texts:
        low = text.casefold()
        found = [place for place in (low.find(word) for word in wanted) if place >= 0]
        if len(found) > most:
            best, at, most = text, min(found, default=0), len(found)
    start, end = max(0, at - _BEFORE), at + _AFTER
    cut = " ".join(best[start:end].split())
    return ("…" if start else "") + cut + ("…" if end < len(best) else "")
