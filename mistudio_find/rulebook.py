"""The rules that judge patterns: words and text patterns of categories, tags and behaviours, weights of complexity.

Rules are JSON: the built-in file, over which an installation's own file may put whole parts. Owns reading,
checking and compiling them, not how hits become a judgement.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import InvalidInput
from mistudio_find.corpus_index import Array
from mistudio_find.textpatterns import TextPattern, text_pattern

CATEGORIES = ("technical", "conversational", "behavioral", "temporal")
"""Categories that rules may describe; what none takes is general."""
MEASURES = ("token_variety", "context_variety", "span_length", "position_freedom")
"""Dimensions of complexity; see judgement.py."""
BUILT_IN = "rules/judgement.v1.json"
"""The built-in rules, which show the form."""
_PARTS = ("version", "order", "categories", "tags", "behaviors", "complexity")
_GROUP_KEYS = {"words", "word_patterns", "text_patterns"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REDACTION = "redaction"
_MOST_BYTES, _MOST_GROUPS, _LONGEST_NAME = 1 << 20, 500, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Lexicon:
    """Named groups of words and patterns, G groups."""

    names: tuple[str, ...]
    """In order of precedence between equals."""
    groups: Mapping[str, Sequence[int]]
    """Which groups each word belongs to, casefolded."""
    word_patterns: tuple[re.Pattern[str] | None, ...]
    """What a whole word may match instead; None for nothing."""
    text_patterns: tuple[tuple[TextPattern, ...], ...]
    """What a text may hold instead of words: any of a group's."""

    def matching(self, texts: Sequence[str]) -> Iterator[tuple[int, list[bool]]]:
        """(group, which of the texts its text patterns match), of groups that match some."""
        joined = "\n".join(texts)
        for row, patterns in enumerate(self.text_patterns):
            if any(pattern.found_in(joined) for pattern in patterns):
                yield row, [any(pattern.found_in(text) for pattern in patterns) for text in texts]

    def flags(self, vocabulary: Sequence[str]) -> Array:
        """Which words belong to which group, bool (G, V)."""
        out: Array = np.zeros((len(self.names), len(vocabulary)), bool)
        patterns = [(row, pattern) for row, pattern in enumerate(self.word_patterns) if pattern is not None]
        for column, word in enumerate(vocabulary):
            for row in self.groups.get(word, ()):
                out[row, column] = True
            for row, pattern in patterns:
                if pattern.fullmatch(word):
                    out[row, column] = True
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Compiled rules."""

    version: str
    """Name and version, recorded with every result; of an installation's own file with the beginning of its digest."""
    categories: Lexicon
    """Of the pattern's category; some of CATEGORIES."""
    tags: Lexicon
    """Of its subjects."""
    behaviors: Lexicon
    """Of its behaviours."""
    weights: Mapping[str, float]
    """Weight of each of MEASURES in complexity, together 1."""
    medium: float
    """Complexity from which a pattern is of medium complexity."""
    high: float
    """From which it is of high complexity."""


def load_rules(name: str = "", folder: Path | None = None) -> Rules:
    """The built-in rules, or those of `<folder>/<name>.json` over them.

    Raises InvalidInput that names the rules that there are, or says what is wrong with a file.
    """
    built_in = json.loads(resources.files("mistudio_find").joinpath(BUILT_IN).read_text(encoding="utf-8"))
    if not name:
        return _compiled(built_in, BUILT_IN)
    known = available(folder)
    if folder is None or name not in known:
        listed = ", ".join(known) if known else "none: this installation has no rules of its own"
        raise InvalidInput.field("rules", name, listed, "Put <name>.json in its rules folder, or leave rules empty.")
    path = folder / f"{name}.json"
    try:
        raw, own = _own(path)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path.name, error) from error
    version = f"{str(own.get('version', name))[:60]}+{hashlib.sha256(raw).hexdigest()[:12]}"
    return _compiled(built_in | own | {"version": version}, path.name)


def _own(path: Path) -> tuple[bytes, dict[str, Any]]:
    """(bytes, parts) of an installation's file. Raises OSError, ValueError, TypeError."""
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
    raw = path.read_bytes()
    own = json.loads(raw.decode("utf-8"))
    if not isinstance(own, dict):
        raise TypeError("it is no JSON object")
    if unknown := sorted(set(own) - set(_PARTS)):
        raise ValueError(f"unknown parts {', '.join(unknown)}; known are {', '.join(_PARTS)}")
    return raw, own


def available(folder: Path | None) -> list[str]:
    """Names of the installation's own rules, sorted."""
    if folder is None or not folder.is_dir():
        return []
    names = (path.stem for path in folder.glob("*.json") if path.is_file())
    return sorted(name for name in names if name != _REDACTION and _NAME.fullmatch(name))


def _compiled(body: Mapping[str, Any], file: str) -> Rules:
    """Raises InvalidInput for what cannot be used."""
    part = ""
    try:
        lexicons = {}
        for part in ("categories", "tags", "behaviors"):
            groups = body[part]
            order = _order(body["order"], groups) if part == "categories" else list(groups)
            lexicons[part] = _lexicon(groups, order)
        part = "complexity"
        weights, medium, high = _complexity(body[part])
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise _unusable(file, error, part) from error
    return Rules(version=str(body["version"]), **lexicons, weights=weights, medium=medium, high=high)


def _order(order: Sequence[str], categories: Mapping[str, Any]) -> list[str]:
    """Categories in order of precedence. Raises ValueError."""
    if sorted(order) != sorted(categories):
        raise ValueError("order must name each category once")
    if unknown := sorted(set(order) - set(CATEGORIES)):
        raise ValueError(f"{', '.join(unknown)}: categories are {', '.join(CATEGORIES)}")
    return list(order)


def _unusable(file: str, error: Exception, part: str = "") -> InvalidInput:
    where = f" (in {part})" if part else ""
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return InvalidInput(f"The rules in {file} cannot be used{where}: {what}. mistudio_find/{BUILT_IN} shows the form.")


def _lexicon(groups: Mapping[str, Any], order: Sequence[str]) -> Lexicon:
    if len(order) > _MOST_GROUPS:
        raise ValueError(f"{len(order)} groups are more than {_MOST_GROUPS}")
    words: dict[str, list[int]] = {}
    word_patterns, text_patterns = [], []
    for row, name in enumerate(order):
        group = groups[name]
        if not name or len(name) > _LONGEST_NAME:
            raise ValueError(f"{name!r}: a name has 1 to {_LONGEST_NAME} characters")
        if unknown := sorted(set(group) - _GROUP_KEYS):
            raise ValueError(
                f"{name!r} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_GROUP_KEYS))}"
            )
        for word in _strings(group, name, "words"):
            words.setdefault(word.casefold(), []).append(row)
        word_patterns.append(_any_of(_checked(_strings(group, name, "word_patterns"))))
        text_patterns.append(tuple(map(text_pattern, _checked(_strings(group, name, "text_patterns")))))
    return Lexicon(
        names=tuple(order), groups=words, word_patterns=tuple(word_patterns), text_patterns=tuple(text_patterns)
    )


def _strings(group: Mapping[str, Any], name: str, key: str) -> list[str]:
    found = group.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise TypeError(f"{key} of {name!r} must be a list of strings")
    return found


def _checked(patterns: Sequence[str]) -> Sequence[str]:
    """The patterns. Raises ValueError for one that matches an empty text, re.error."""
    for pattern in patterns:
        if re.compile(pattern).fullmatch(""):
            raise ValueError(f"the pattern {pattern!r} matches an empty text")
    return patterns


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One pattern that matches what any of them does."""
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.MULTILINE) if patterns else None


def _complexity(body: Mapping[str, Any]) -> tuple[dict[str, float], float, float]:
    if set(body["weights"]) != set(MEASURES):
        raise ValueError(f"weights must be of {', '.join(MEASURES)}")
    weights = {name: float(body["weights"][name]) for name in MEASURES}
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise ValueError("weights must not be negative, and one must be above 0")
    medium, high = float(body["medium"]), float(body["high"])
    if not 0 <= medium <= high <= 1:
        raise ValueError("medium and high must rise between 0 and 1")
    return {name: weight / total for name, weight in weights.items()}, medium, high
