"""Activations of documents: every hook, every real token, in order, the same whatever the batches were."""

import threading

import pytest
import torch

from mistudio_torch.harvest import harvest, harvest_blocks
from mistudio_torch.lm.hookpoints import parse_hook
from mistudio_torch.lm.hooks import capture
from mistudio_torch.lm.load import load_lm
from mistudio_torch.tokens import CPU_TOKENS, batch_tokens, padded, tokenize
from tests.support import tinymodels

HOOKS = {
    "bert": ("blocks.0.hook_resid_pre", "encoder.layer.1.intermediate.dense", "blocks.1.hook_mlp_out"),
    "gpt2": ("transformer.h.1.mlp.input", "h.1.mlp", "blocks.0.hook_resid_post"),
}
DOCUMENTS = [5, 0, 17, 3, 22, 9, 3]


@pytest.fixture(scope="module", params=HOOKS)
def lm(request, models):
    return load_lm(request.param, [parse_hook(name) for name in HOOKS[request.param]], model_root=models)


@pytest.fixture
def table(lm, tmp_path):
    texts = tinymodels.sentences(23, seed=3)
    return tokenize(texts, lm.tokenizer, tmp_path, max_sequence_length=16, bos_id=lm.bos_id)[0]


def one_at_a_time(lm, table):
    """The same the slow way: one sequence a pass, no padding, special tokens thrown away afterwards."""
    rows = {name: [] for name in lm.taps}
    for first, last in table.sequences(DOCUMENTS):
        ids, mask = padded(table, [(first, last)], lm.pad_id)
        found = capture(lm.model, lm.taps, torch.from_numpy(ids), torch.from_numpy(mask))
        for name, x in found.items():
            rows[name].append(x[0][torch.from_numpy(~table.special_T[first:last])])
    return {name: torch.cat(parts) for name, parts in rows.items()}


@pytest.mark.parametrize("batch_size", (1, 3, 128))
def test_all_hooks_equal_one_sequence_at_a_time(lm, table, batch_size):
    together = harvest(lm, table, DOCUMENTS, batch_size=batch_size)
    assert list(together) == [hook.name for hook in lm.hooks]
    for name, expected in one_at_a_time(lm, table).items():
        assert together[name].dtype == torch.float32 and together[name].shape[1] == lm.widths[name]
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-5)
    assert len(expected) == table.real_tokens()[DOCUMENTS].sum()


def test_the_same_documents_give_the_same_bytes(lm, table):
    one, two = (harvest(lm, table, DOCUMENTS, batch_size=3) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_all_hooks_share_one_pass_that_stops_at_the_last(lm, table):
    passes, after = [], []
    handles = [lm.model.register_forward_pre_hook(lambda _m, _i: passes.append(1))]
    handles += [lm.block.register_forward_hook(lambda _m, _i, _o: after.append(1))]
    batches = []
    harvest(lm, table, DOCUMENTS, batch_size=3, on_batch=lambda: batches.append(1))
    for handle in handles:
        handle.remove()
    assert len(passes) == len(batches) > 1
    assert not after  # the deepest hook is inside of the block, which therefore never ends


def test_short_sequences_share_a_pass(lm, table):
    lengths = [last - first for first, last in table.sequences(range(23))]
    budget = batch_tokens(table, 4, on_gpu=False)
    batches = []
    harvest(lm, table, range(23), batch_size=4, on_batch=lambda: batches.append(1))
    assert budget == 4 * max(lengths) and len(batches) < len(lengths) / 2
    assert batch_tokens(table, 1_000_000, on_gpu=False) == CPU_TOKENS
    assert batch_tokens(table, 1_000_000, on_gpu=True) == 1_000_000 * max(lengths)


def test_half_precision_comes_out_as_floats(models, tmp_path):
    lm = load_lm("gpt2", 1, model_root=models, dtype=torch.bfloat16)
    table, _ = tokenize(["the cat sat"] * 3, lm.tokenizer, tmp_path, max_sequence_length=16, bos_id=lm.bos_id)
    x = harvest(lm, table, [0, 1, 2], batch_size=2)["blocks.1.hook_resid_post"]
    assert x.dtype == torch.float32 and torch.equal(x[:3], x[3:6]) and torch.isfinite(x).all()


def test_a_cancel_stops_the_harvest(lm, table):
    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(lm, table, [0], batch_size=1, on_batch=cancel)


BLOCKS = [[5, 0], [17], [3, 22, 9], [3]]


@pytest.mark.parametrize("ahead", (None, False, True))
def test_blocks_come_in_order_whether_harvested_ahead_or_not(lm, table, ahead):
    found = list(harvest_blocks(lm, table, BLOCKS, batch_size=3, ahead=ahead))
    for documents, together in zip(BLOCKS, found, strict=True):
        alone = harvest(lm, table, documents, batch_size=3)
        assert all(torch.equal(together[name], alone[name]) for name in alone)
    assert not list(harvest_blocks(lm, table, [], batch_size=3, ahead=ahead))


def test_the_next_block_is_harvested_while_the_caller_works_on_this_one(lm, table):
    second = threading.Event()
    started = []

    def on_batch():
        started.append(threading.current_thread().name)
        if len(started) == 2:
            second.set()

    blocks = harvest_blocks(lm, table, [[5], [0], [17]], batch_size=64, on_batch=on_batch, ahead=True)
    next(blocks)
    assert second.wait(10), "the second block was not begun before it was asked for"
    assert all(name.startswith("harvest") for name in started)
    blocks.close()
    assert len(started) == 2, "the third was not begun"


def test_an_error_of_a_block_ahead_reaches_the_caller_at_that_block(lm, table):
    calls = []

    def on_batch():
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("stop")

    blocks = harvest_blocks(lm, table, [[5], [0], [17]], batch_size=64, on_batch=on_batch, ahead=True)
    assert len(next(blocks)[lm.hooks[0].name]) > 0
    with pytest.raises(KeyError, match="stop"):
        next(blocks)


def test_no_documents(lm, table):
    assert {x.shape for x in harvest(lm, table, [], batch_size=4).values()} == {(0, w) for w in lm.widths.values()}
