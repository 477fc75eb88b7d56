"""Prompts: what they show, how they stay within a budget, and how answers are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mistudio_core.errors import InvalidInput, NotFound, Unsupported
from mistudio_explain.config import AUDIENCES, STRATEGIES
from mistudio_explain.engines.base import Failure
from mistudio_explain.evidence import check_contrast, check_strategy
from mistudio_explain.few_shot import built_in_few_shot, load_few_shot
from mistudio_explain.prompting import VERSIONS, Prompt, build_prompt, read_answer
from mistudio_explain.safety import safety_rules
from tests.unit.explain.made_evidence import evidence, top

FULL = evidence(
    promoted=(" sea", " dock"),
    suppressed=(" desert",),
    neighbours=(9,),
    quantiles=(top("A weak harbour here.", "harbour", 1.0),),
)
PAIR = evidence(feature_id=9, top=(top("An airport gate closed.", "airport"),))


def made(**given) -> Prompt:
    prompt = build_prompt(FULL, seed=0, pair=PAIR, **given)
    assert isinstance(prompt, Prompt)
    return prompt


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_a_versioned_template_that_shows_its_evidence(strategy):
    prompt = made(strategy=strategy)
    assert (prompt.strategy, prompt.version) == (strategy, VERSIONS[strategy])
    assert "⟦harbour⟧" in prompt.user
    assert "$" not in prompt.user + prompt.system
    own = {
        "quantiles": "(20%) A weak ⟦harbour⟧",
        "contrast_pair": "⟦airport⟧",
        "promoted_tokens": '"dock"',
        "code": "| ",
    }
    others = [shown for name, shown in own.items() if name != strategy]
    assert own.get(strategy, "train left the station") in prompt.user
    assert not any(shown in prompt.user for shown in others)


def test_audiences_change_the_system_message_alone():
    prompts = [made(audience=audience) for audience in AUDIENCES]
    assert len({p.system for p in prompts}) == len(AUDIENCES)
    assert len({p.user for p in prompts}) == 1


def test_the_system_message_is_the_same_for_every_feature():
    other = build_prompt(PAIR, seed=5)
    assert isinstance(other, Prompt)
    assert made().system == other.system


def test_held_out_texts_never_reach_a_prompt():
    for strategy in STRATEGIES:
        shown = made(strategy=strategy)
        assert not any(t.text in shown.user + shown.system for t in FULL.judge)


def test_examples_are_dropped_from_the_end_until_the_tokenizer_says_it_fits():
    whole = made()
    counted = []

    def count(text):
        counted.append(text)
        return len(text.split())

    words = len(f"{whole.system}\n{whole.user}".split())
    exact = made(max_tokens=words + 32, count=count)
    assert (exact.examples, exact.tokens) == (whole.examples, words + 32)
    small = made(max_tokens=words + 20, count=count)
    assert small.examples < whole.examples
    assert small.tokens <= words + 20
    assert "number 0 " in small.user
    assert len(counted) < 10


def test_few_shot_examples_go_before_the_last_texts_do():
    tight = made(max_tokens=650)
    assert "EXAMPLE 1" not in tight.system
    assert tight.examples >= 4
    assert tight.tokens <= 650


def test_a_context_for_no_text_is_a_failure_that_says_how_much_it_needs():
    failure = build_prompt(FULL, seed=0, max_tokens=100)
    assert isinstance(failure, Failure)
    assert failure.kind == "context_too_small"
    needed = int(failure.message.split("needs ")[1].split()[0])
    assert "100 are free" in failure.message
    fits = build_prompt(FULL, seed=0, max_tokens=needed)
    assert isinstance(fits, Prompt)
    assert fits.examples == 1


def test_the_part_around_the_strongest_token_of_a_long_text_is_shown():
    long = top("dull " * 400 + "harbour " + "dull " * 400, "harbour")
    prompt = build_prompt(evidence(top=(long,)), seed=0)
    assert isinstance(prompt, Prompt)
    line = next(line for line in prompt.user.splitlines() if "⟦harbour⟧" in line)
    assert len(line) < 850


def test_a_feature_without_what_a_strategy_shows_gets_the_plain_one_by_name():
    bare = evidence()
    for strategy in ("promoted_tokens", "contrast_pair"):
        prompt = build_prompt(bare, seed=0, strategy=strategy)
        assert isinstance(prompt, Prompt)
        assert prompt.strategy == "top_and_contrast"
        with pytest.raises(Unsupported, match=strategy):
            check_strategy(strategy, [bare])
        check_strategy(strategy, [bare, FULL])
    with pytest.raises(Unsupported, match="contrast_texts of at least 2"):
        check_contrast(0, "find_1")


def test_answers_are_read_or_refused_by_kind():
    good = read_answer('{"explanation": " Fires on\\n \\"x\\". ", "keywords": ["x", " ", "y"]}')
    assert good == ('Fires on "x".', ("x", "y"))
    for text, kind in (
        ("Sure! Here it is", "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"explanation": 3, "keywords": []}', "wrong_schema"),
        ('{"explanation": "x"}', "wrong_schema"),
        ('{"explanation": "", "keywords": []}', "wrong_schema"),
        (json.dumps({"explanation": "x" * 3000, "keywords": []}), "wrong_schema"),
        ('["explanation"]', "wrong_schema"),
    ):
        failure = read_answer(text)
        assert isinstance(failure, Failure)
        assert failure.kind == kind
    many = read_answer(json.dumps({"explanation": "x", "keywords": ["k" * 99] * 40}))
    assert many == ("x", ("k" * 60,) * 10)


def test_few_shot_sets_are_replaceable(tmp_path):
    one = {"active": ["a ⟦b⟧"], "silent": [], "explanation": 'Fires on "b".', "keywords": ["b"]}
    (tmp_path / "ours.json").write_text(json.dumps({"version": "ours/3", "examples": [one]}))
    ours = load_few_shot("ours", tmp_path)
    prompt = made(few_shot=ours)
    assert "a ⟦b⟧" in prompt.system
    assert "harbour" not in prompt.system
    assert prompt.version.endswith("+ours")
    assert load_few_shot("", tmp_path) is built_in_few_shot()
    with pytest.raises(NotFound, match="There are: ours"):
        load_few_shot("other", tmp_path)
    with pytest.raises(NotFound):
        load_few_shot("../ours", tmp_path)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("{", "cannot be read"),
        ("[]", "other keys"),
        ('{"version": "1", "examples": []}', "1 to 10 examples"),
        ('{"version": "", "examples": [1]}', "no version"),
        ('{"version": "1", "examples": [{"active": []}]}', "example 1 with other keys"),
        ('{"version": "1", "examples": [{"active": ["x"], "silent": [], "explanation": "e", "keywords": []}]}', "⟦"),
        (
            '{"version": "1", "examples": [{"active": ["⟦x⟧"], "silent": [], "explanation": "", "keywords": []}]}',
            "expl",
        ),
        ('{"version": "1", "examples": [{"active": 3, "silent": [], "explanation": "e", "keywords": []}]}', "active"),
    ],
)
def test_malformed_few_shot_sets_are_refused_with_what_is_allowed(tmp_path, body, what):
    (tmp_path / "bad.json").write_text(body)
    with pytest.raises(InvalidInput, match="1 to 10 examples") as refused:
        load_few_shot("bad", tmp_path)
    assert what in refused.value.message


def test_the_documented_files_are_accepted(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text(encoding="utf-8")
    few_shot, safety = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "ours.json").write_text(few_shot)
    (tmp_path / "safety.json").write_text(safety)
    assert load_few_shot("ours", tmp_path).version == "ours/1"
    assert safety_rules(tmp_path).rules[0].subject == "patients"
