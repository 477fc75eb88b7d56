"""Tokens are counted by the model's own tokenizer where it decides, and prompts of managed engines keep to it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from mistudio_core.secret import Secret
from mistudio_explain.chat_explainer import ChatExplainer
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import Failure
from mistudio_explain.engines.counting import counter_of, file_counter, within
from mistudio_explain.engines.vllm import VllmEngine
from mistudio_explain.evidence import FindEvidence
from tests.unit.explain.pools import place


def letters(folder: Path) -> Path:
    """A tokenizer of one token a letter, digit or sign."""
    alphabet = {chr(code): code - 31 for code in range(32, 127)} | {"?": 0}
    made = Tokenizer(models.WordLevel(alphabet, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_a_file_counts_and_a_missing_or_broken_one_does_not(tmp_path: Path):
    count = file_counter(letters(tmp_path))
    assert count is not None
    assert count("four") == 4
    assert file_counter(tmp_path / "nothing.json") is None
    (tmp_path / "broken.json").write_text("{}")
    assert file_counter(tmp_path / "broken.json") is None


def test_a_count_is_exact_only_where_it_decides():
    asked: list[str] = []
    bounded = within(lambda text: asked.append(text) or 5, 100)
    assert bounded is not None
    assert (bounded("x" * 30), asked) == (30, [])
    assert (bounded("x" * 90), len(asked)) == (5, 1)
    assert (bounded("é" * 20), len(asked)) == (5, 2)
    assert within(None, 100) is None


def test_a_prompt_keeps_to_the_tokenizer_of_its_engine(home, tmp_path: Path, features):
    there = place(home, tmp_path)
    find = FindEvidence(features)
    evidence = find.choose(feature_ids=(), min_coherence=0.0, max_features=1)[0]
    settings = there.configure(max_model_len=4000)
    config = ExplainConfig(find_job_id="find_1", engine="local")

    def prompt():
        engine = VllmEngine(settings, model="tiny", api_key=Secret(""), home=home)
        return ChatExplainer(engine, config).prompt(evidence, strategy="top_and_contrast", seed=0), counter_of(engine)

    by_characters, none = prompt()
    assert none is None
    count = file_counter(letters(home.models / "tiny"))
    by_tokens, own = prompt()
    assert count is not None
    assert own is not None
    assert not isinstance(by_tokens, Failure)
    assert not isinstance(by_characters, Failure)
    assert count(by_tokens.system + by_tokens.user) <= 4000 - 400 < count(by_characters.system + by_characters.user)
