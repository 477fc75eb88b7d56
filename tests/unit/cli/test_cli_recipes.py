"""Recipes: complete, plannable without the hub, with shapes that are right; presets; what `models check` shows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_cli import model_shapes
from mistudio_cli.__main__ import run_command
from mistudio_cli.models import memory_request
from mistudio_cli.plan_view import show_plan
from mistudio_cli.recipes import GRANULARITY, RECIPES, SELECTIVITY, settings
from mistudio_cli.train import named, training_request
from mistudio_core.errors import InvalidInput
from mistudio_core.home import Home
from mistudio_rpc.interceptors import check_message
from mistudio_torch.lm.facts import sum_tensors
from mistudio_train.assess import assess, smallest_card
from mistudio_train.convert_memory import checked_config, facts_of_shape, memory_answer

GB = 10**9
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "recipes.md"
SHAPES = {name: shape for name, shape in vars(model_shapes).items() if name.isupper()}
NAMED = [name for name, r in RECIPES.items() if r.shape is not None]
FIVE_GIGABYTES = 5 * GB


def planned(name: str, home: Home):
    request = memory_request(name, {})
    check_message(request)
    facts = facts_of_shape(request.model_name, request.shape)
    return facts, assess(facts, checked_config(request, home), gpus=[], host_bytes=FIVE_GIGABYTES)


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_is_planned_from_its_own_shape_and_some_common_gpu_takes_it(name: str, home: Home):
    facts, found = planned(name, home)
    fields = RECIPES[name].fields
    work = found.planned.workload
    assert work.layer == fields.get("layer_number", 35) < facts.total_layers
    assert len(work.saes) == (4 if "sweep" in fields else 1)
    assert {s.d_sae for s in work.saes} == {fields["hidden_dim"]}
    card = smallest_card(found)
    assert card is not None and card.card.gigabytes <= 24 and card.time.seconds < 4 * 3600


def test_phi_4_at_block_16_runs_on_one_24_gb_gpu_as_the_recipe_has_it(home: Home):
    facts, found = planned("phi-4", home)
    (card,) = (c for c in found.cards if c.card.gigabytes == 24)
    assert facts.parameters > 14e9 and card.sufficient and card.changes == ""
    assert card.gpu_bytes < 12 * GB, "4 bits are asked for"
    assert 600 < card.time.seconds < 3600


def test_recipes_reach_from_a_hundred_million_weights_to_14_billion():
    sizes = sorted(int(RECIPES[name].shape["parameters"]) for name in NAMED)
    assert sizes[0] < 200e6 and sizes[-1] > 14e9
    assert [any(low < n < 2 * low for n in sizes) for low in (1e9, 2e9, 7e9)] == [True] * 3


def config_of(shape):
    kind = {"gpt_neox": "GPTNeoX", "gpt2": "GPT2", "roberta": "Roberta", "bert": "Bert", "phi3": "Phi3"}
    name = kind.get(shape["architecture"], str(shape["architecture"]).title())
    tied = not shape["head_parameters"] or name in ("Bert", "Roberta")
    sizes = {"vocab_size": shape["vocab_size"], "hidden_size": shape["hidden_size"], "num_hidden_layers": 2}
    sizes |= {"intermediate_size": shape["feed_forward_size"], "num_attention_heads": shape["attention_heads"]}
    if name == "GPT2":
        sizes = {"vocab_size": shape["vocab_size"], "n_embd": shape["hidden_size"], "n_layer": 2}
        sizes |= {"n_head": shape["attention_heads"], "n_positions": shape["max_positions"]}
    elif name not in ("Bert", "Roberta", "GPTNeoX"):
        sizes |= {"num_key_value_heads": shape["key_value_heads"], "head_dim": shape["head_size"]}
    if name == "Roberta":
        sizes |= {"max_position_embeddings": 514, "type_vocab_size": 1}
    config = getattr(transformers, f"{name}Config")(**sizes, tie_word_embeddings=tied, pad_token_id=0)
    head = {"Bert": "BertModel", "GPT2": "GPT2LMHeadModel", "Roberta": "RobertaForMaskedLM"}
    return config, getattr(transformers, head.get(name, f"{name}ForCausalLM"))


@pytest.mark.parametrize("name", SHAPES)
def test_the_weights_of_a_shape_are_those_of_the_model(name: str):
    shape = SHAPES[name]
    config, cls = config_of(shape)
    with torch.device("meta"):
        model = cls(config)
    counted = sum_tensors({n: ("F32", tuple(p.shape)) for n, p in model.named_parameters()})
    for field in ("block_parameters", "linear_parameters", "embedding_parameters"):
        assert getattr(counted, field) == shape[field], field
    loaded = shape["parameters"] - shape["head_parameters"]
    blocks = shape["total_layers"] * shape["block_parameters"]
    assert counted.other_parameters - counted.head_parameters == loaded - blocks


def test_presets_replace_width_and_sparsity():
    assert settings("gpt2", granularity="coarse", selectivity="high")["hidden_dim"] == GRANULARITY["coarse"]
    assert settings("gpt2", selectivity="high")["k"] == SELECTIVITY["high"]["k"]
    assert settings("published", selectivity="low") == {"sparsity_coeff": SELECTIVITY["low"]["sparsity_coeff"]}
    assert settings("published", selectivity="low", architecture="topk") == {"k": SELECTIVITY["low"]["k"]}
    for bad in ({"granularity": "tiny"}, {"selectivity": "none"}):
        with pytest.raises(InvalidInput, match=next(iter(bad))):
            settings("gpt2", **bad)
    request = training_request("gpt2", {"corpus_file": "c", "granularity": "fine", "k": 5})
    assert (request.hidden_dim, request.k, request.model_name) == (16_384, 5, "openai-community/gpt2")
    with pytest.raises(InvalidInput, match="recipes list"):
        named(training_request("demo", {"corpus_file": "c"}))


def test_options_replace_a_recipe_in_a_memory_check():
    request = memory_request("phi-4", {"hidden_dim": 64, "batch_size": None})
    assert (request.hidden_dim, request.batch_size, request.layer_number) == (64, 4, 16)
    assert request.enable_4bit and not request.enable_8bit and request.shape.total_layers == 40
    other = memory_request("phi-4", {"model": "a/b"})
    assert other.model_name == "a/b" and not other.HasField("shape")
    with pytest.raises(InvalidInput, match="recipes list"):
        memory_request("published", {})


def test_recipes_are_listed_and_shown(home: Home, capsys: pytest.CaptureFixture[str]):
    (home.models / "openai-community/gpt2").mkdir(parents=True)
    assert run_command(["recipes", "list", "--json", "--home", str(home.root)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in listed["recipes"]] == list(RECIPES)
    assert [r["name"] for r in listed["recipes"] if r["in_model_root"]] == ["gpt2"]
    assert listed["presets"]["granularity"] == dict(GRANULARITY)
    assert run_command(["recipes", "show", "legal", "--home", str(home.root)]) == 0
    text = capsys.readouterr().out
    assert "hidden_dim           3072" in text and "models convert" in text
    assert run_command(["recipes", "show", "none", "--home", str(home.root)]) == 1


def test_a_plan_is_shown_by_part_with_its_peak_and_what_would_do(home: Home, capsys: pytest.CaptureFixture[str]):
    facts, found = planned("llama-3.1-8b", home)
    show_plan(None, memory_answer(facts, found, shape_from="request"), "llama-3.1-8b")
    text = capsys.readouterr().out
    for part in found.planned.parts:
        assert part.name in text
    assert f"peak ({found.planned.peak_phase})" in text and "not enough on this machine" in text
    assert "Common GPUs" in text and "GeForce RTX 3090" in text and "GB takes it as asked" in text
    assert "Time here: about" in text and "measured on this machine" in text and "gated" in text


def test_a_model_that_cannot_be_used_shows_why_and_no_plan(capsys: pytest.CaptureFixture[str]):
    valid = train_service_pb2.ValidateModelResponse(model_name="m", reason="MODEL_INVALID", message="It is none.")
    show_plan(valid, None, "published")
    text = capsys.readouterr().out
    assert "no: MODEL_INVALID: It is none." in text and "Memory" not in text
    assert set(SHAPES["GPT2"]) <= set(training_pb2.ModelShape.DESCRIPTOR.fields_by_name)


def row(name: str, home: Home) -> str:
    _, found = planned(name, home)
    (card,) = (c for c in found.cards if c.card.gigabytes == 24)
    fields, shape = RECIPES[name].fields, RECIPES[name].shape
    size, budget = int(shape["parameters"]) / 1e9, int(fields["token_budget"]) / 1e6
    bits = "4 bits" if fields.get("enable_4bit") else "bfloat16"
    minutes = round(card.time.seconds / 60) or "< 1"
    block = f"{fields.get('layer_number', '5, 15, 25, 35')} of {shape['total_layers']}"
    return (
        f"| `{name}` | {fields['model_name']} | {size:.2f} | {block} | {bits} "
        f"| {fields['hidden_dim']:,} | {budget:g} | {card.gpu_bytes / 1e9:.1f} | {minutes} |"
    )


def test_the_table_in_the_documentation_is_what_the_planner_says(home: Home):
    head = "| recipe | model | weights, 10^9 | block | format | features | tokens, 10^6 | peak, GB | minutes |"
    table = "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *(row(name, home) for name in NAMED)])
    begin, end = "<!-- recipes -->\n", "\n<!-- /recipes -->"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition("<!-- /recipes -->")
    if os.environ.get("MISTUDIO_UPDATE_SNAPSHOTS"):
        DOCUMENT.write_text(before + begin + table + end + after)
    assert f"{begin}{table}{end}" in DOCUMENT.read_text()
