"""Patterns of texts that are looked for in thousands of them: what a match must hold is looked for first.

A substring is found some hundred times faster than a pattern that may begin at every word. Owns that
shortcut, which changes no answer, not which patterns there are.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

_parser: Any = importlib.import_module("re._parser")
_MOST_CHARACTERS = 10
_PARTS_KEPT = 2


@dataclass(frozen=True, slots=True)
class TextPattern:
    """A pattern with what is in every text that it matches."""

    pattern: re.Pattern[str]
    """The pattern."""
    needs: tuple[tuple[str, ...], ...]
    """A text that it matches holds at least one string of each of these."""

    def found_in(self, text: str) -> bool:
        """Whether it matches somewhere."""
        for strings in self.needs:
            for string in strings:
                if string in text:
                    break
            else:
                return False
        return self.pattern.search(text) is not None


def text_pattern(pattern: str) -> TextPattern:
    """Compiles a pattern; ^ and $ are ends of lines. Raises re.error."""
    compiled = re.compile(pattern, re.MULTILINE)
    if compiled.flags & re.IGNORECASE:
        return TextPattern(compiled, ())
    parts = sorted(set(_parts(_parser.parse(pattern, re.MULTILINE))), key=_selective, reverse=True)
    return TextPattern(compiled, tuple(parts[:_PARTS_KEPT]))


def _selective(strings: Sequence[str]) -> tuple[int, int, tuple[str, ...]]:
    """How seldom one of them is found: long ones, then few."""
    return min(map(len, strings)), -len(strings), tuple(strings)


def _parts(tree: Iterable[tuple[Any, Any]]) -> list[tuple[str, ...]]:
    """Strings of which what a parsed pattern matches holds at least one, for each part of it that has such."""
    found: list[tuple[str, ...]] = []
    run = ""
    for operation, value in tree:
        name = str(operation)
        if name == "LITERAL":
            run += chr(value)
            continue
        heads = _heads(value[1]) if run and name == "BRANCH" else []
        found += [tuple(run + head for head in heads)] if heads else [(run,)] if run else []
        run = ""
        if name == "IN":
            found += _characters(value)
        elif name == "BRANCH":
            found += _either([_parts(branch) for branch in value[1]])
        elif name == "SUBPATTERN" and not value[1]:  # no flags of its own
            found += _parts(value[3])
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and value[0]:
            found += _parts(value[2])
    return [*found, (run,)] if run else found


def _heads(branches: Iterable[Iterable[tuple[Any, Any]]]) -> list[str]:
    """What the branches of a choice begin with; nothing where one begins with no character of its own."""
    heads = []
    for branch in branches:
        letters = takewhile(lambda item: str(item[0]) == "LITERAL", branch)
        heads.append("".join(chr(code) for _, code in letters))
    return list(dict.fromkeys(heads)) if all(heads) else []


def _either(branches: Sequence[list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """What the most selective parts of all branches are together; nothing where one has none."""
    if not all(branches):
        return []
    return [tuple(dict.fromkeys(string for parts in branches for string in max(parts, key=_selective)))]


def _characters(given: Iterable[tuple[Any, Any]]) -> list[tuple[str, ...]]:
    """The characters of a small set; nothing for a large one, a negated one, or one of classes."""
    found: list[str] = []
    for operation, value in given:
        if str(operation) == "LITERAL":
            found.append(chr(value))
        elif str(operation) == "RANGE" and value[1] - value[0] < _MOST_CHARACTERS:
            found += map(chr, range(value[0], value[1] + 1))
        else:
            return []
    return [tuple(found)] if len(found) <= _MOST_CHARACTERS else []
