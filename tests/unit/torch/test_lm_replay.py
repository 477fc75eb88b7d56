"""Blocks before a hook are run once, and only where later ones need nothing else of them."""

import pytest
import torch

from mistudio_torch.lm.causal import Replacement, hidden_before_head, load_causal_lm
from mistudio_torch.lm.hookpoints import HookPoint, resid_post
from mistudio_torch.lm.hooks import Tap
from mistudio_torch.lm.replay import Replay, blocks_before
from tests.support import tinymodels

IDS = torch.arange(24).reshape(2, 12) % 16
REAL = torch.ones(2, 12, dtype=torch.bool)


def blocks_of(causal):
    return list(next(m for m in causal.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3))


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox"])
def causal(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("replay")
    tinymodels.make(root / request.param, request.param)
    hooks = [*map(resid_post, range(3)), HookPoint(kind="mlp_out", layer=1)]
    return load_causal_lm(request.param, hooks, model_root=root)


def test_the_blocks_that_have_ended_at_a_hook(causal):
    blocks = blocks_of(causal)
    assert blocks_before(causal, causal.taps["blocks.1.hook_resid_post"]) == blocks[:2]
    assert blocks_before(causal, causal.taps["blocks.1.hook_mlp_out"]) == blocks[:1]
    assert blocks_before(causal, Tap(module=blocks[2], of_input=True)) == blocks[:2]
    assert blocks_before(causal, Tap(module=causal.model.get_input_embeddings())) == []


def test_a_replayed_pass_gives_what_a_whole_one_gives_and_runs_no_block_again(causal):
    hook, ran = causal.taps["blocks.1.hook_resid_post"], []
    handle = blocks_of(causal)[0].register_forward_pre_hook(lambda module, inputs: ran.append(module.forward))
    instead_ND = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(IDS)
    whole = hidden_before_head(causal, IDS, mask_BT, [Replacement(hook, REAL, instead_ND)])
    replay = Replay(blocks_before(causal, hook))
    ran.clear()
    hidden_before_head(causal, IDS, mask_BT, [replay, Replacement(hook, REAL)])
    for _ in range(2):
        again = hidden_before_head(causal, IDS, mask_BT, [replay, Replacement(hook, REAL, instead_ND)])
        assert torch.equal(again, whole)
    handle.remove()
    own = type(blocks_of(causal)[0]).forward
    assert [forward.__func__ is own for forward in ran] == [True, False, False]
    assert "forward" not in blocks_of(causal)[0].__dict__


def test_blocks_that_others_need_are_run_every_time(causal):
    first, last = blocks_of(causal)[0], blocks_of(causal)[2]
    kept = []
    handles = [
        next(first.children()).register_forward_hook(lambda *_: kept.append(1)),
        last.register_forward_pre_hook(lambda *_: kept.pop() and None),
    ]
    try:
        assert blocks_before(causal, causal.taps["blocks.1.hook_resid_post"]) == []
    finally:
        for handle in handles:
            handle.remove()
