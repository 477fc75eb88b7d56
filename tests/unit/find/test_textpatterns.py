"""What a match must hold is a shortcut: no answer differs from the pattern's own."""

from __future__ import annotations

import json
import random
import re
from importlib import resources

import pytest

from mistudio_find.rulebook import BUILT_IN
from mistudio_find.textpatterns import text_pattern

RULES = json.loads(resources.files("mistudio_find").joinpath(BUILT_IN).read_text(encoding="utf-8"))
PATTERNS = [
    pattern
    for part in ("categories", "tags", "behaviors")
    for group in RULES[part].values()
    for pattern in group.get("text_patterns", ())
]
TALK = """I can we cannot use the search tool a_b f() camelCase {}; ; <tag> </p> x.py a.json ? ” “ User: Assistant:
2024-01-02 12:30 12:30:45 will should invoke calling Action: sorry unable decide to Step 5 step First, 1. Please not
sure "role": def x() -> => :: # [a](b) "key": 1 note: text 15 minutes min as an AI"""
PIECES = [*TALK.split(), "", "\n"]


def texts(count=400):
    rng = random.Random(0)
    return ["".join(rng.choice(PIECES) + rng.choice([" ", "", "\n", "."]) for _ in range(6)) for _ in range(count)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_built_in_patterns_answer_as_without_the_shortcut(pattern):
    made, plain = text_pattern(pattern), re.compile(pattern, re.MULTILINE)
    assert [made.found_in(text) for text in texts()] == [plain.search(text) is not None for text in texts()]


@pytest.mark.parametrize(
    ("pattern", "needs"),
    [
        (r"\bnot (?:sure|certain)\b", {("not sure", "not certain"), ("sure", "certain")}),
        (r"x\.(?:py|c|\d)", {("x.",)}),
        (r"ab?c", {("c",), ("a",)}),
        (r"(?:ab|c*)d", {("d",)}),
        (r"[0-9]+:[xyz]", {(":",), ("x", "y", "z")}),
        (r"(?:one|two){2,}", {("one", "two")}),
        (r"(?:one|two)*three", {("three",)}),
        (r"[^a]b", {("b",)}),
        (r"\w+", set()),
        (r"(?i)Word", set()),
        (r"(?i:Word) and", {(" and",)}),
        (r"(?=never)x", {("x",)}),
    ],
)
def test_what_a_match_must_hold(pattern, needs):
    assert set(text_pattern(pattern).needs) == needs


def test_some_of_each_is_looked_for():
    made = text_pattern(r"(?:cat|dog) \d")
    assert made.found_in("a dog 1") and made.found_in("cat 2")
    assert not made.found_in("bird 1") and not made.found_in("cat x")
