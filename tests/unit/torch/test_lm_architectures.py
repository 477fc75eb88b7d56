"""Every family: hooks of the cut model are what the whole model does there, and mean what their names say."""

import pytest
import torch
from transformers import AutoModel, AutoModelForTextEncoding

from mistudio_torch.lm.hookable import inspect_hooks
from mistudio_torch.lm.hookpoints import HookPoint, parse_hook
from mistudio_torch.lm.hooks import capture
from mistudio_torch.lm.load import load_lm
from tests.support import tinymodels

LAYERS = 3
POST_NORM = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
    "deberta-v2": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
}
"""Families that normalise the sum: the norms after attention and after the MLP."""
IDS = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 4, 0, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    for kind in tinymodels.KINDS:
        tinymodels.make(root / kind, kind, LAYERS, initializer_range=0.3)
    return root


def whole_model(root, kind):
    loader = AutoModelForTextEncoding if kind == "t5" else AutoModel
    return loader.from_pretrained(root / kind).eval()


@pytest.mark.parametrize("kind", tinymodels.KINDS)
def test_residual_streams_are_those_of_the_whole_model(root, kind):
    hooks = [HookPoint(kind="resid_pre", layer=n) for n in (0, 1)] + [HookPoint(kind="resid_post", layer=1)]
    lm = load_lm(kind, hooks, model_root=root)
    with torch.no_grad():
        states = whole_model(root, kind)(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    ours = capture(lm.model, lm.taps, IDS, MASK)
    for number, hook in enumerate(hooks):
        torch.testing.assert_close(ours[hook.name][MASK.bool()], states[number][MASK.bool()], rtol=1e-5, atol=1e-5)
    assert lm.layer == 1 and states[1].std() > 0.01


@pytest.mark.parametrize("kind", tinymodels.KINDS)
def test_attention_and_mlp_are_what_a_block_adds_to_the_stream(root, kind):
    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    lm = load_lm(kind, [HookPoint(kind=k, layer=2) for k in kinds], model_root=root)
    assert lm.widths == {f"blocks.2.hook_{k}": tinymodels.DIM for k in kinds}
    pre, attention, mlp, post = capture(lm.model, lm.taps, IDS, MASK).values()
    if kind in POST_NORM:
        after_attention, after_mlp = (lm.block.get_submodule(path) for path in POST_NORM[kind])
        with torch.no_grad():
            expected = after_mlp(after_attention(pre + attention) + mlp)
    else:
        expected = pre + attention + mlp
    torch.testing.assert_close(post[MASK.bool()], expected[MASK.bool()], rtol=1e-4, atol=1e-4)
    assert min(attention.std(), mlp.std()) > 0.01


@pytest.mark.parametrize("kind", tinymodels.KINDS)
def test_listed_modules_are_there_and_as_wide_as_listed(root, kind):
    records = inspect_hooks(kind, model_root=root).records()
    lm = load_lm(kind, [parse_hook(record.name) for record in records], model_root=root)
    assert {r.name: r.width for r in records if r.width is not None}.items() <= lm.widths.items()
    assert set(lm.widths) == {r.name for r in records} and len(records) == len(set(lm.widths))
    live = dict(lm.model.named_modules())
    assert all(r.module_path.removesuffix(".input") in live for r in records)
    assert {r.layer for r in records} == {0, 1, 2, None}


@pytest.mark.parametrize("kind", tinymodels.KINDS)
def test_the_last_block_and_the_final_norm_are_reached(root, kind):
    final = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm", "phi": "final_layernorm", "t5": "encoder.final_layer_norm"}
    hooks = [HookPoint(kind="resid_post", layer=2)]
    if kind not in POST_NORM:
        hooks.append(parse_hook(final.get(kind, "norm")))
    whole, seen = whole_model(root, kind), {}
    lm = load_lm(kind, hooks, model_root=root)
    path = next(name for name, module in lm.model.named_modules() if module is lm.block)
    whole.get_submodule(path).register_forward_hook(lambda m, i, o: seen.update(x=o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        last = whole(input_ids=IDS, attention_mask=MASK).last_hidden_state
    ours = list(capture(lm.model, lm.taps, IDS, MASK).values())
    torch.testing.assert_close(ours[0][MASK.bool()], seen["x"][MASK.bool()], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[-1][MASK.bool()], last[MASK.bool()], rtol=1e-5, atol=1e-5)
