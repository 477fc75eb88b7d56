"""The engines file: every kind, defaults, keys for all engines together, and every way to be wrong."""

from __future__ import annotations

import pytest

from mistudio_core.errors import InvalidInput, NotFound, Unsupported
from mistudio_explain.engines.settings import choose_engine, load_engines
from mistudio_explain.engines.table import EngineSettings

COMPATIBLE = '[engines.a]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n'
OPENAI = '[engines.o]\nkind = "openai"\nmodel = "m"\napi_key_file = "/k"\nusd_per_million_input = 1.0\n'


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "engines.toml"
        path.write_text(text)
        return load_engines(path)

    return load


def test_only_lexical_unless_there_is_more(load, tmp_path):
    assert list(load_engines(tmp_path / "none")) == ["lexical"]
    assert load_engines(None)["lexical"].is_default
    engines = load(f'default = "a"\njudge = "embedding"\nfallback = ["a", "lexical"]\n{COMPATIBLE}')
    assert engines["a"].is_default
    assert not engines["lexical"].is_default
    assert (engines.judge, engines.fallback) == ("embedding", ("a", "lexical"))
    assert choose_engine(engines, "").name == "a"
    assert choose_engine(engines, "lexical").kind == "lexical"


def test_providers_are_off_until_they_have_a_table_with_key_and_prices(load):
    assert not [e for e in load(COMPATIBLE).values() if e.costs_money]
    provider = load(OPENAI + "usd_per_million_output = 4\n")["o"]
    assert provider.costs_money
    assert provider.url == "https://api.openai.com/v1"
    own = load(COMPATIBLE + "usd_per_million_input = 0.5\nusd_per_million_output = 0.5\n")["a"]
    assert own.costs_money


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (COMPATIBLE + "colour = 1", r"engines\.a\.colour"),
        (COMPATIBLE + "attempts = 'x'", r"engines\.a\.attempts"),
        (COMPATIBLE + "attempts = true", r"engines\.a\.attempts"),
        (COMPATIBLE + "attempts = 0", r"engines\.a\.attempts"),
        (COMPATIBLE + "concurrency = 1000", r"engines\.a\.concurrency"),
        (COMPATIBLE + "total_seconds = nan", r"engines\.a\.total_seconds"),
        (COMPATIBLE + "usd_per_million_input = 1", r"engines\.a\.usd_per_million_output"),
        (COMPATIBLE + "usd_per_million_input = -1\nusd_per_million_output = 1", r"engines\.a\.usd_per_million_input"),
        (COMPATIBLE.replace('model = "m"', ""), r"engines\.a\.model"),
        (COMPATIBLE.replace("openai_compatible", "magic"), r"engines\.a\.kind"),
        (COMPATIBLE.replace('kind = "openai_compatible"', ""), r"engines\.a\.kind"),
        (COMPATIBLE.replace("[engines.a]", '[engines."a b"]'), "engines"),
        (COMPATIBLE.replace("openai_compatible", "lexical"), r"engines\.a\.kind"),
        (OPENAI, r"engines\.o\.usd_per_million_output"),
        (OPENAI + "usd_per_million_output = 0", r"engines\.o\.usd_per_million"),
        (OPENAI.replace('api_key_file = "/k"\n', "") + "usd_per_million_output = 4", r"engines\.o\.api_key_file"),
        ("[engines]\na = 1", r"engines\.a"),
        ("engines = 1", "engines"),
        ("colour = 1", "colour"),
        ("fallback = 'a'", "fallback"),
        ("fallback = [1]", "fallback"),
        ("fallback = ['a']", "fallback"),
        ("judge = 'a'", "judge"),
        ("judge = 1", "judge"),
        ("[routing]\ncolour = 1", r"routing\.colour"),
        ("[routing.models]\ncode = 1", r"routing\.models\.code"),
        ("[routing.models]\ncode = {engine = 'a'}", "routing"),
        ("[[routing.rules]]\nrole = 'other'", r"routing\.rules\.role"),
        ("[[routing.rules]]\nrole = 'code'\ncategories = ['odd']", r"routing\.rules\[0\]\.categories"),
        ("default =", "TOML"),
    ],
)
def test_every_wrong_value_is_refused_by_its_name(load, text, named):
    with pytest.raises(InvalidInput, match=named):
        load(text)


def test_a_key_in_the_wrong_place_is_not_echoed(load):
    with pytest.raises(InvalidInput) as refused:
        load(COMPATIBLE + "api_key = 'sk-canary-5f1c'")
    assert "canary" not in str(refused.value) + repr(refused.value.facts) + repr(refused.value.problems)


def test_unknown_engines_and_models_of_lexical(load):
    with pytest.raises(NotFound, match="There are: lexical") as unknown:
        load('default = "b"\n')
    assert unknown.value.reason == "ENGINE_NOT_FOUND"
    with pytest.raises(Unsupported):
        choose_engine(load_engines(None), "lexical", "big")


def test_a_vllm_table_has_fields_of_its_own(load):
    settings = load('[engines.v]\nkind = "vllm"\nmodel = "m"\nmemory_fraction = 0.5\n')["v"]
    assert isinstance(settings, EngineSettings)
    assert settings.memory_fraction == 0.5
    with pytest.raises(InvalidInput, match=r"engines\.a\.memory_fraction"):
        load(COMPATIBLE + "memory_fraction = 0.5")
