"""The list of hooks from names and shapes alone: families by their parts, prefixes, neighbours of a wrong name."""

import pytest

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.lm.anatomy import anatomy_of, gives_tokens, part_of_block
from mistudio_torch.lm.hookable import SHOWN, HookCatalogue, inspect_hooks
from mistudio_torch.lm.hookpoints import HookPoint, parse_hook
from tests.support import tinymodels


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    root = tmp_path_factory.mktemp("catalogues")
    return {kind: inspect_hooks(tinymodels.make(root / kind, kind).name, model_root=root) for kind in ("gpt2", "bert")}


def test_records_come_by_block_then_by_module(catalogues):
    records = catalogues["gpt2"].records()
    kinds = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    assert [(r.layer, r.kind) for r in records[:12]] == [(n, kind) for n in range(3) for kind in kinds]
    widths = {r.name: r.width for r in records}
    assert (widths["h.0.mlp.c_fc"], widths["h.0.mlp.c_proj"], widths["h.0.mlp"], widths["wte"]) == (64, 16, 16, 16)
    assert "wpe" not in widths and widths["ln_f"] == 16 and "lm_head" not in widths


def test_records_of_one_block(catalogues):
    whole = catalogues["bert"].records()
    for layer in range(3):
        assert catalogues["bert"].records(layer) == [r for r in whole if r.layer == layer]
    with pytest.raises(InvalidInput, match=r"0\.\.2") as refusal:
        catalogues["bert"].records(3)
    assert refusal.value.reason == "LAYER_OUT_OF_RANGE"


@pytest.mark.parametrize(
    ("kind", "name", "deepest"),
    (
        ("gpt2", "blocks.2.hook_resid_post", 2),
        ("gpt2", "blocks.2.hook_resid_pre", 1),
        ("gpt2", "blocks.0.hook_resid_pre", 0),
        ("gpt2", "transformer.h.1.attn", 1),
        ("gpt2", "h.1.attn.resid_dropout", 1),
        ("gpt2", "wte", 0),
        ("gpt2", "ln_f", 2),
        ("bert", "embeddings.LayerNorm", 0),
        ("bert", "encoder.layer.1.output", 1),
    ),
)
def test_the_deepest_block_that_a_hook_needs(catalogues, kind, name, deepest):
    assert catalogues[kind].check(parse_hook(name)) == deepest


@pytest.mark.parametrize("name", ("h.1.mpl", "encoder.layer.1", "h.1.mlp.c_fc2", "lm_head", "h.x"))
def test_a_hook_that_is_not_there_names_its_neighbours(catalogues, name):
    with pytest.raises(InvalidInput) as refusal:
        catalogues["gpt2"].check(parse_hook(name))
    near = refusal.value.facts["allowed"].partition("nearest: ")[2].split(", ")
    assert 1 <= len(near) <= SHOWN and set(near) <= {r.name for r in catalogues["gpt2"].records()}


def test_prefixes_of_classes_with_heads():
    for architecture, prefix, blocks in (
        ("llama", "model.", "layers"),
        ("gpt2", "transformer.", "h"),
        ("bert", "bert.", "encoder.layer"),
        ("distilbert", "distilbert.", "transformer.layer"),
        ("distilbert", "", "transformer.layer"),
        ("opt", "model.", "decoder.layers"),
    ):
        shapes = {f"{prefix}{blocks}.{n}.mlp.down_proj.weight": (8, 32) for n in range(11)}
        shapes |= {f"{prefix}emb.weight": (9, 8), "lm_head.weight": (9, 8)}
        found = anatomy_of("m", architecture, 11, 8, shapes)
        assert (found.blocks, found.prefix) == (blocks, prefix.removesuffix(".")), architecture
        assert found.part("mlp_out", 10) == f"{blocks}.10.mlp.down_proj"
        assert "lm_head" not in found.modules and found.without_prefix(f"{prefix}{blocks}.3.mlp") == f"{blocks}.3.mlp"
        order = [p for p in found.modules if p.endswith("down_proj")]
        assert order == [f"{blocks}.{n}.mlp.down_proj" for n in range(11)]


def test_what_is_added_to_the_stream():
    assert part_of_block("mlp_out", ["mlp", "mlp.down_proj", "post_attention_layernorm"]) == "mlp.down_proj"
    sandwich = ["mlp.down_proj", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"]
    assert part_of_block("mlp_out", sandwich) == "post_feedforward_layernorm"
    assert part_of_block("attn_out", sandwich) == "post_attention_layernorm"
    bloom = ["self_attention", "self_attention.dense", "mlp", "mlp.dense_4h_to_h"]
    assert [part_of_block(kind, bloom) for kind in ("attn_out", "mlp_out")] == [bloom[1], bloom[3]]
    assert part_of_block("attn_out", ["mixer"]) is None


def test_modules_without_a_vector_a_token_are_not_listed():
    assert not any(map(gives_tokens, ("wpe", "layers.0.self_attn.q_norm", "h.1.mlp.experts", "layers.2.mlp.gate")))
    assert all(map(gives_tokens, ("layers.0.mlp.gate_proj", "layers.0.self_attn.q_proj", "embeddings")))


def test_a_model_without_blocks(catalogues):
    facts = catalogues["gpt2"].facts
    nothing = HookCatalogue(facts=facts, anatomy=anatomy_of("m", "mamba", 3, 16, {"x.weight": (16, 16)}))
    assert [r.name for r in nothing.records()] == ["x"]
    with pytest.raises(Unsupported, match="blocks"):
        nothing.check(HookPoint(kind="resid_post", layer=0))


def test_shapes_that_were_not_read_leave_widths_open():
    found = anatomy_of("m", "llama", 1, 16, {"model.layers.0.mlp.down_proj.weight": (), "model.norm.weight": ()})
    assert found.modules["norm"] is None and found.modules["layers.0.mlp"] == 16
