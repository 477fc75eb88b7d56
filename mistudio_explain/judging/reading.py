"""What an explanation's words say about texts: the words, signs, word parts and shapes that it names.

Owns reading an explanation and matching it; who is scored and how figures come of it stands beside.
Shapes (numbers, capital letters, commas ...) are data: rules/shapes.v1.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from mistudio_core.corpus.words import stem, words

QUOTED, LISTED, PLAIN = 1.0, 0.7, 0.25
"""Weights of words by where they stand: between double quotes, in the list, in other prose."""
LEAST_CHOSEN = 1.0
"""A quoted or listed word was chosen, however common it is: its idf counts at least so much."""
SIGN = 2.0
"""What stands for the idf of signs and shapes."""
_QUOTES = re.compile(r"[\"“„«]([^\"“”„«»]{1,80})[\"”»]")
_PART = re.compile(r"\bparts?\s+$", re.IGNORECASE)
_LETTER = re.compile(r"\w")
_INSIDE, _SHORTEST_PART, _LEAST_IDF = 0.25, 3, 0.05
_MORE, _MOST_REPEATS = 0.3, 4
known_stem = lru_cache(maxsize=100_000)(stem)
"""`stem` with a memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A form of writing that has a name."""

    name: str
    """As the lexical engine calls it."""
    said: re.Pattern[str]
    """How explanations call it."""
    pattern: re.Pattern[str]
    """How it looks in a text."""
    token: re.Pattern[str] | None
    """How a single token of it looks; None where tokens are named one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What an explanation names, with weights."""

    words: Mapping[str, float]
    """By stem: quoted 1, listed 0.7, other prose 0.25, times idf."""
    signs: Mapping[str, float]
    """Quoted or listed strings without a letter or digit, as they are."""
    parts: Mapping[str, float]
    """Word parts, quoted behind the word "part"."""
    shapes: tuple[Shape, ...]
    """Forms of writing that its prose names."""


@lru_cache(maxsize=1)
def shapes() -> tuple[Shape, ...]:
    """The forms of writing that have names."""
    body = json.loads(resources.files("mistudio_explain").joinpath("rules/shapes.v1.json").read_text(encoding="utf-8"))
    return tuple(
        Shape(
            name=s["name"],
            said=re.compile(rf"\b(?:{'|'.join(map(re.escape, s['said']))})\b", re.IGNORECASE),
            pattern=re.compile(s["pattern"]),
            token=re.compile(s["token"]) if s["token"] else None,
        )
        for s in body["shapes"]
    )


@lru_cache(maxsize=1)
def _boilerplate() -> frozenset[str]:
    """Stems of what explanations say about features in general: they describe no text."""
    path = resources.files("mistudio_explain").joinpath("rules/boilerplate.v1.txt")
    return frozenset(map(stem, path.read_text(encoding="utf-8").split()))


def stems(text: str) -> frozenset[str]:
    """Stems of a text's words."""
    return _measured(text)[0]


@lru_cache(maxsize=8192)
def _measured(text: str) -> tuple[frozenset[str], int]:
    """(stems, number of words) of a text; texts come back often, so the last 8,192 are kept."""
    found = [known_stem(word) for word, _, _ in words(text)]
    return frozenset(found), len(found)


def read(explanation: str, listed: Sequence[str], idf: Callable[[str], float]) -> Reading:
    """What the explanation and the words listed with it name; boilerplate says nothing."""
    found: dict[str, float] = {}
    signs: dict[str, float] = {}
    parts: dict[str, float] = {}
    for match in _QUOTES.finditer(explanation):
        is_part = bool(_PART.search(explanation, max(0, match.start() - 7), match.start()))
        _add(match.group(1), QUOTED, parts if is_part else found, signs, idf)
    for entry in listed:
        _add(entry, LISTED, found, signs, idf)
    prose = _QUOTES.sub(" ", explanation)
    for word, _, _ in words(prose):
        key = known_stem(word)
        # Only prose is searched for boilerplate: a quoted or listed word was chosen.
        if key not in _boilerplate() and not word.isdigit():
            found[key] = max(found.get(key, 0.0), PLAIN * max(_LEAST_IDF, idf(word)))
    return Reading(words=found, signs=signs, parts=parts, shapes=tuple(s for s in shapes() if s.said.search(prose)))


def _add(
    chosen: str, weight: float, found: dict[str, float], signs: dict[str, float], idf: Callable[[str], float]
) -> None:
    """Takes a quoted or listed string in: its words, or itself where it has none."""
    shown = chosen.strip()
    if shown and not _LETTER.search(shown):
        signs[shown] = max(signs.get(shown, 0.0), weight * SIGN)
    for word, _, _ in words(shown):
        key = known_stem(word)
        found[key] = max(found.get(key, 0.0), weight * max(LEAST_CHOSEN, idf(word)))


def score(text: str, reading: Reading) -> float:
    """Sum of the weights of what the text holds, a text's distinct words: 0 for a text without words.

    A word inside of a longer one counts a quarter, a named part of a word fully; a sign or shape that
    repeats counts up to 2.2 times. Long texts hold more of everything, hence the division.
    """
    here, length = _measured(text)
    total = 0.0
    missing = []
    for key, weight in reading.words.items():
        if key in here:
            total += weight
        elif len(key) >= _SHORTEST_PART:
            missing.append((key, weight, _INSIDE))
    missing += [(key, weight, 1.0) for key, weight in reading.parts.items() if len(key) > 1]
    if missing:
        joined = " ".join(here)
        total += sum(part * weight for key, weight, part in missing if key in joined)
    for sign, weight in reading.signs.items():
        total += weight * _repeats(text.count(sign))
    for shape in reading.shapes:
        total += SIGN * _repeats(len(shape.pattern.findall(text)))
    return total / max(1, length)


def _repeats(count: int) -> float:
    return 1 + _MORE * min(count - 1, _MOST_REPEATS) if count else 0.0
