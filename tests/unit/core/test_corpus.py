"""Splitting texts into words and documents into evidence and judges."""

from __future__ import annotations

from mistudio_core.corpus.splits import JUDGE_SHARE, is_judge
from mistudio_core.corpus.words import stem, words


def found(text):
    return [w for w, _, _ in words(text)]


def test_words_of_many_scripts():
    assert found("The cat's JSON_schema, v2!") == ["the", "cat's", "json", "schema", "v2"]
    assert found("日本語 ок हिन्दी") == ["日本", "本語", "ок", "हिन्दी"]
    assert found("猫") == ["猫"]
    assert found(" ... \n") == []


def test_places_are_where_the_words_stand():
    text = "Größe: 日本語 naïve"
    assert [text[a:b].casefold() for _, a, b in words(text)] == found(text)


def test_forms_of_a_word_meet():
    assert len({stem(w) for w in ("return", "returns", "returned", "returning")}) == 1
    assert stem("library") == stem("libraries")
    assert stem("cat") != stem("car")


def test_the_split_is_stable_and_about_a_third():
    texts = [f"document {i}" for i in range(3000)]
    share = sum(map(is_judge, texts)) / len(texts)
    assert abs(share - JUDGE_SHARE) < 0.03
    assert is_judge("document 1") == is_judge("document 1")
    assert is_judge("\ud800") in (True, False)
