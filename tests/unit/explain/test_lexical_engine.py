"""The lexical engine: which words it picks, how it says so, and that it needs nothing else."""

from __future__ import annotations

import pytest

from mistudio_explain.engines.lexical import LexicalExplainer
from mistudio_explain.engines.telling import candidates, choose
from tests.unit.explain.made_evidence import driver, evidence, top


async def said(**given):
    return await LexicalExplainer().explain(evidence(**given), strategy="", seed=0)


async def test_the_word_it_fires_on_comes_first():
    draft = await said()
    assert draft.explanation.startswith('Fires on the word "harbour"')
    assert '"ship"' in draft.explanation
    assert draft.keywords[0] == "harbour"
    assert "station" not in draft.keywords
    assert "the" not in draft.keywords


async def test_signs_are_named_as_signs():
    texts = tuple(top(f"version ( {n} of it", "(") for n in range(6))
    draft = await said(top=texts, driving=(driver("(", 0.9),), keywords=())
    assert 'the sign "("' in draft.explanation
    assert "(" in draft.keywords


async def test_a_quotation_mark_is_named_not_quoted():
    texts = tuple(top(f'they said " {n} to us', '"') for n in range(6))
    draft = await said(top=texts, driving=(driver('"', 0.9),), keywords=())
    assert "the sign quotation marks" in draft.explanation
    assert draft.explanation.count('"') % 2 == 0


@pytest.mark.parametrize(
    ("numbers", "says"),
    [((17, 23, 31, 48, 52, 64), "Fires on numbers"), (("NASA", "IBM", "UN", "EU", "USB", "FTP"), "capital letters")],
)
async def test_the_form_of_the_tokens_is_named_where_they_share_no_word(numbers, says):
    texts = tuple(top(f"they saw {n} of them", str(n)) for n in numbers)
    assert says in (await said(top=texts, driving=(), keywords=())).explanation


async def test_a_word_part_is_named_with_words_that_hold_it():
    texts = tuple(
        top(text, "", position=3)
        for text in ("a submarine dived", "the subway came", "his subject here", "one subset only")
    )
    cut = []
    for text in texts:
        at = next(i for i, t in enumerate(text.tokens) if "sub" in t)
        tokens = (*text.tokens[:at], " sub", text.tokens[at][4:], *text.tokens[at + 1 :])
        values = tuple(4.0 if t == " sub" else 0.0 for t in tokens)
        cut.append(
            type(text)(text=text.text, tokens=tokens, activations=values, context="", position=3, document_tokens=4)
        )
    draft = await said(top=tuple(cut), driving=(), keywords=())
    assert 'word part "sub", as in "submarine"' in draft.explanation


async def test_the_place_and_the_word_before_are_named():
    texts = tuple(top(f"New {n} york city", "york", position=1, document_tokens=60) for n in ("alpha",) * 5)
    draft = await said(top=texts, driving=(driver("york", 0.9),), keywords=())
    assert 'it mostly follows "alpha"' in draft.explanation
    assert "near the start of a text" in draft.explanation


async def test_nothing_to_say_is_said():
    texts = tuple(top(w, w) for w in ("ab", "cd", "ef", "gh"))
    draft = await said(top=texts, driving=(), keywords=(), contrast=("ab cd", "ef gh", "ab ef"))
    assert draft.explanation.startswith("Fires on tokens that share no word.")


def test_words_of_contrast_texts_and_common_words_tell_nothing():
    found = {c.key: c for c in candidates(evidence())}
    assert {"the", "at", "left"} & set(found) == set()
    assert found["harbour"].firing == pytest.approx(0.3 * (6 + 6 * 0.01) / 12 + 0.7)
    assert found["harbour"].silent < 0.05


def test_a_driver_on_which_it_always_fires_cannot_stand_in_silent_texts():
    common = {"document_share": lambda word: 0.4, "contrast": ()}
    always = candidates(evidence(driving=(driver("harbour", 0.8, lift=1000.0),), **common))
    seldom = candidates(evidence(driving=(driver("harbour", 0.8, lift=100.0),), **common))
    assert next(c for c in always if c.key == "harbour").silent == 0.0
    assert next(c for c in seldom if c.key == "harbour").silent == pytest.approx(0.4 * 0.9)


def test_choice_is_bounded_ordered_and_keeps_what_must_come_first():
    texts = tuple(top(" ".join(f"word{n}" for n in range(40)), "word0") for _ in range(5))
    found = candidates(evidence(top=texts, driving=(), document_share=lambda word: 0.001))
    assert len(choose(found)) == 16
    assert choose(found, first=("word9",))[0].key == "word9"
    assert choose([]) == []
