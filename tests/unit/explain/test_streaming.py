"""The explanation in a JSON answer, decoded however it is cut."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from mistudio_explain.streaming import ExplanationText

SAID = 'Fires on "a" \\ b\n\t/ 中文 \U0001f600 é. End'


def fed(text: str, cuts: list[int]) -> list[str]:
    shown = ExplanationText()
    edges = [0, *cuts, len(text)]
    return [shown.feed(text[a:b]) for a, b in pairwise(edges)]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_cut_gives_the_same_text(ascii_only):
    rng = random.Random(0)
    answer = json.dumps({"explanation": SAID, "keywords": ['"explanation": "no']}, ensure_ascii=ascii_only)
    for _ in range(200):
        cuts = sorted(rng.sample(range(1, len(answer)), 12))
        assert "".join(fed(answer, cuts)) == SAID
    assert "".join(fed(answer, list(range(1, len(answer))))) == SAID


def test_nothing_is_shown_before_the_explanation_and_behind_it():
    answer = '{"keywords": ["x"],  "explanation" : "One." , "more": "two"}'
    assert "".join(fed(answer, list(range(1, len(answer))))) == "One."
    assert fed('{"keywords": []}', []) == [""]


def test_what_is_no_json_does_not_stop_it():
    assert "".join(fed('{"explanation": "bad \\q escape"}', [])) == "bad \\q escape"
    assert "".join(fed('{"explanation": "half \\ud83d alone"}', [])).startswith("half ")
