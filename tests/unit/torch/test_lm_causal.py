"""Whole causal models: loaded from safetensors, refused where they have no head, their logits those of the model."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Model,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaModel,
    OPTConfig,
    OPTForCausalLM,
)

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_torch.lm.causal import (
    Replacement,
    causal_bytes,
    causal_of,
    hidden_before_head,
    is_causal,
    load_causal_lm,
    logits_of,
)
from mistudio_torch.lm.hookpoints import resid_post
from mistudio_torch.lm.source import inspect_model
from mistudio_torch.lm.weights import Placement
from tests.support import tinymodels

KINDS = ("llama", "gpt2", "gpt_neox")
SHAPE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
ODD_HEADS = {
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=0.05)),
    "scaled": lambda: Cohere2ForCausalLM(Cohere2Config(**SHAPE, logit_scale=3.5)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
    "projected": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=8,
            max_position_embeddings=32,
            pad_token_id=0,
        )
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharded", (False, True))
def test_logits_are_those_of_plain_transformers(models, tmp_path, kind, sharded):
    folder = shutil.copytree(models / kind, tmp_path / kind)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    if sharded:
        tinymodels.shard_by_block(folder)
    causal = load_causal_lm(kind, [], model_root=tmp_path)
    ids = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    hidden = hidden_before_head(causal, ids, mask)
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits_of(causal, hidden[mask.bool()]), expected[mask.bool()])
    assert is_causal(causal) and not any(p.requires_grad for p in causal.model.parameters())


@pytest.mark.parametrize("kind", ODD_HEADS)
def test_whatever_an_architecture_does_to_logits_is_done(models, kind):
    torch.manual_seed(0)
    model = ODD_HEADS[kind]().eval()
    causal = causal_of(model, inspect_model("llama", model_root=models))
    ids = torch.arange(3, 12)[None]
    hidden = hidden_before_head(causal, ids, torch.ones_like(ids))[0]
    with torch.no_grad():
        torch.testing.assert_close(logits_of(causal, hidden), model(ids).logits[0])


@pytest.mark.parametrize("kind", ("llama", "gpt2"))
def test_replacing_by_itself_changes_nothing_and_by_zero_everything(models, kind):
    causal = load_causal_lm(kind, [resid_post(1)], model_root=models)
    tap = causal.taps["blocks.1.hook_resid_post"]
    ids, mask = torch.tensor([[2, 5, 6, 7]]), torch.ones(1, 4, dtype=torch.int64)
    real = torch.tensor([[False, True, True, True]])
    seen = Replacement(tap, real)
    clean = hidden_before_head(causal, ids, mask, [seen])
    same = hidden_before_head(causal, ids, mask, [Replacement(tap, real, seen.seen_ND)])
    other = hidden_before_head(causal, ids, mask, [Replacement(tap, real, torch.zeros_like(seen.seen_ND))])
    assert torch.equal(clean, same) and seen.seen_ND.shape == (3, 16)
    assert torch.equal(other[0, 0], clean[0, 0]) and not torch.allclose(other[0, 1:], clean[0, 1:])


def test_encoders_are_refused_before_their_weights_are_read(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    header = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(header[: 8 + int.from_bytes(header[:8], "little")])
    with pytest.raises(Unsupported, match="architecture bert has no head"):
        load_causal_lm("bert", [], model_root=tmp_path)


def test_a_model_that_looks_both_ways_is_found_out(models):
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(**{k: SHAPE[k] for k in list(SHAPE)[:5]}, is_decoder=False)).eval()
    assert not is_causal(causal_of(model, inspect_model("bert", model_root=models)))


def test_a_model_without_a_head_is_refused(models, tmp_path):
    LlamaModel.from_pretrained(models / "llama").save_pretrained(tmp_path / "headless")
    with pytest.raises(Unsupported, match="no head here"):
        load_causal_lm("headless", [], model_root=tmp_path)
    GPT2Model.from_pretrained(models / "gpt2").save_pretrained(tmp_path / "tied")
    assert load_causal_lm("tied", [], model_root=tmp_path).head.weight.shape == (32, 16)


def test_missing_weights_and_memory_are_refused(models, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(LimitReached, match="GB are free") as refusal:
        load_causal_lm("llama", [], model_root=models, available_bytes=1000)
    assert refusal.value.reason == "INSUFFICIENT_MEMORY"
    folder = shutil.copytree(models / "llama", tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match="missing") as hole:
        load_causal_lm("holes", [], model_root=tmp_path)
    assert hole.value.reason == "MODEL_INVALID"


def test_custom_code_is_never_run(models, tmp_path):
    folder = shutil.copytree(models / "llama", tmp_path / "custom")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_causal_lm("custom", [], model_root=tmp_path).facts.architecture == "llama"
    assert not marker.exists()


@pytest.mark.parametrize("quantization", ("nf4", "int8"))
def test_quantised_blocks_and_a_head_that_is_not(models, quantization):
    causal = load_causal_lm("llama", [resid_post(0)], placement=Placement(quantization=quantization), model_root=models)
    block = causal.taps["blocks.0.hook_resid_post"].module
    assert type(causal.head) is torch.nn.Linear and causal.head.weight.dtype == torch.float32
    assert not any(type(m) is torch.nn.Linear for m in block.modules()) and is_causal(causal)
    ids = torch.tensor([[2, 5, 6, 7]])
    hidden = hidden_before_head(causal, ids, torch.ones_like(ids))[0]
    with torch.no_grad():
        torch.testing.assert_close(logits_of(causal, hidden), causal.model(ids).logits[0])


def test_planned_bytes(models):
    facts = inspect_model("llama", model_root=models)
    plain, half, packed = (
        causal_bytes(facts, Placement(dtype=dtype, quantization=quantization))
        for dtype, quantization in ((torch.float32, "none"), (torch.bfloat16, "none"), (torch.bfloat16, "nf4"))
    )
    assert plain - half == 2 * facts.parameters > 0
    assert half - packed == pytest.approx((2 - 0.53) * 3 * facts.linear_parameters, abs=1)
