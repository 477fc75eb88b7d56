"""Loss recovered and KL on tiny causal models, beside a slow computation with plain transformers and hooks."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mistudio_torch.lm.causal import load_causal_lm, logits_of
from mistudio_torch.lm.hookpoints import HookPoint, resid_post
from mistudio_torch.lm.hooks import Tap
from mistudio_torch.metrics import SpliceMetrics, or_absent, reference, splice, splice_metrics, splice_metrics_of
from mistudio_torch.tokens import tokenize
from tests.support import tinymodels

KINDS = ("llama", "gpt2", "gpt_neox")
DOCUMENTS = list(range(24))
HOOKS = [*map(resid_post, range(3)), HookPoint(kind="mlp_out", layer=1)]


def counting(count, seed=0):
    """Sentences that go through the vocabulary word by word: what a tiny model learns at once."""
    rng = random.Random(seed)
    words = tinymodels.WORDS[4:]
    starts = [(rng.randrange(16), rng.randint(3, 12)) for _ in range(count)]
    return [" ".join(words[(first + i) % 16] for i in range(length)) for first, length in starts]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models that predict the next word well, so that an ablation costs something."""
    root = tmp_path_factory.mktemp("trained")
    for kind in KINDS:
        folder = tinymodels.make(root / kind, kind)
        model = AutoModelForCausalLM.from_pretrained(folder)
        start = torch.arange(16)[:, None]
        ids = torch.cat([torch.full((16, 1), 2), 4 + (start + torch.arange(12)) % 16], dim=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
    return root


@pytest.fixture(scope="module")
def table(trained, tmp_path_factory):
    """Sentences with a BOS token before each."""
    tokenizer = AutoTokenizer.from_pretrained(trained / "llama")
    folder = tmp_path_factory.mktemp("tokens")
    return tokenize(counting(24), tokenizer, folder, max_sequence_length=16, bos_id=2)[0]


def block_of(model, layer):
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)[layer]


def tap(causal, layer):
    return causal.taps[f"blocks.{layer}.hook_resid_post"]


def lossy(x_ND):
    """A reconstruction that is neither perfect nor nothing, each row on its own."""
    return 0.5 * x_ND + 0.5 * x_ND.roll(1, dims=1)


class Slow:
    """One sequence at a time through plain transformers, figures in float64 numpy."""

    def __init__(self, folder, table, layer):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.block = block_of(self.model, layer)
        self.sequences = []
        for first, last in table.sequences(DOCUMENTS):
            ids = torch.from_numpy(table.ids_T[first:last].astype(np.int64))
            self.sequences.append((ids[None], torch.from_numpy(~np.asarray(table.special_T[first:last]))))

    def activations(self):
        rows = []
        handle = self.block.register_forward_hook(lambda m, i, o: rows.append(o[0] if isinstance(o, tuple) else o))
        with torch.no_grad():
            for ids, _ in self.sequences:
                self.model(ids)
        handle.remove()
        return torch.cat([row[0][real] for row, (_, real) in zip(rows, self.sequences, strict=True)]).double()

    def logits(self, change):
        now = []

        def hook(_module, _inputs, output):
            whole = (output[0] if isinstance(output, tuple) else output).clone()
            whole[0, now[-1]] = change(whole[0, now[-1]])
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        handle = self.block.register_forward_hook(hook)
        with torch.no_grad():
            for ids, real in self.sequences:
                now.append(real)
                yield self.model(ids).logits[0].numpy()
        handle.remove()

    def figures(self, change):
        """Mean cross-entropy with `change` and mean KL to it."""
        losses, kl = [], []
        for clean, changed, (ids, real) in zip(
            list(self.logits(lambda x: x)), list(self.logits(change)), self.sequences, strict=True
        ):
            losses += reference.cross_entropy(changed, ids[0].tolist(), real.tolist())
            kl += reference.kl_divergence(clean, changed, real.tolist())
        return np.mean(losses), np.mean(kl)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", (0, 2))
def test_an_independent_slow_computation_agrees(trained, table, kind, layer):
    slow = Slow(trained / kind, table, layer)
    mean_D = slow.activations().mean(0).float()
    clean, spliced, zero, mean = (
        slow.figures(change) for change in (lambda x: x, lossy, torch.zeros_like, mean_D.expand_as)
    )
    causal = load_causal_lm(kind, HOOKS, model_root=trained)
    ours = splice_metrics(causal, tap(causal, layer), lossy, table, DOCUMENTS, batch_size=7)
    assert ours.tokens == table.n_tokens and ours.not_measured == ""
    for found, expected in (
        (ours.ce_clean, clean[0]),
        (ours.ce_spliced, spliced[0]),
        (ours.ce_zero_ablated, zero[0]),
        (ours.ce_mean_ablated, mean[0]),
        (ours.kl_divergence, spliced[1]),
        (ours.ce_loss_recovered, reference.loss_recovered(clean[0], spliced[0], zero[0])),
        (ours.ce_loss_recovered_mean, reference.loss_recovered(clean[0], spliced[0], mean[0])),
    ):
        assert found == pytest.approx(expected, abs=1e-5)
    assert clean[0] < 1 < zero[0] and spliced[1] > 0.01 and 0.01 < ours.ce_loss_recovered < 0.99


@pytest.fixture
def llama(trained):
    return load_causal_lm("llama", HOOKS, model_root=trained)


def test_perfection_loses_nothing_and_zeros_recover_nothing(llama, table):
    block = tap(llama, 1)
    perfect, nothing = splice_metrics_of(llama, block, [lambda x: x, torch.zeros_like], table, DOCUMENTS, batch_size=5)
    assert (perfect.ce_loss_recovered, perfect.ce_loss_recovered_mean, perfect.kl_divergence) == (1, 1, 0)
    assert perfect.ce_spliced == perfect.ce_clean < nothing.ce_spliced == nothing.ce_zero_ablated
    assert nothing.ce_loss_recovered == 0 and nothing.kl_divergence > 0.1


def test_neither_batches_nor_company_nor_parts_of_the_head_change_a_figure(llama, table, monkeypatch):
    block, calls = tap(llama, 0), []
    one = splice_metrics(llama, block, lossy, table, DOCUMENTS, batch_size=24)
    monkeypatch.setattr(splice, "_HEAD_BYTES", 4 * 32 * 3)
    monkeypatch.setattr(splice, "_ROWS", 5)
    rows = []
    monkeypatch.setattr(splice, "logits_of", lambda causal, h_RD: rows.append(len(h_RD)) or logits_of(causal, h_RD))
    two = splice_metrics_of(
        llama, block, [torch.zeros_like, lossy], table, DOCUMENTS, batch_size=1, on_batch=lambda: calls.append(1)
    )[1]
    assert len(calls) == 24 * 5, "clean, zero and mean ablation are shared"
    for name in ("ce_clean", "ce_spliced", "ce_zero_ablated", "ce_mean_ablated", "kl_divergence"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), abs=1e-6)
    assert two.tokens == one.tokens and max(rows) == 3, "a few rows of the vocabulary at a time"


def test_the_sae_sees_real_tokens_alone_and_special_ones_keep_their_activation(llama, table):
    block, seen, after = tap(llama, 1), [], []

    def reconstruct(x_ND):
        seen.append(x_ND.clone())
        return torch.full_like(x_ND, 7.0)

    handle = block_of(llama.model, 2).register_forward_pre_hook(lambda m, inputs: after.append(inputs[0].clone()))
    splice_metrics(llama, block, reconstruct, table, [3], batch_size=1)
    handle.remove()
    clean_TD, zero_TD, spliced_TD, mean_TD = (x[0] for x in after if x.shape[1] == len(seen[0]) + 1)
    torch.testing.assert_close(seen[0], clean_TD[1:])
    assert all(torch.equal(other_TD[0], clean_TD[0]) for other_TD in (zero_TD, spliced_TD, mean_TD))
    assert bool((spliced_TD[1:] == 7).all()) and not zero_TD[1:].any()
    torch.testing.assert_close(mean_TD[1:], clean_TD[1:].mean(0).expand_as(mean_TD[1:]))


def test_a_transcoder_reads_one_place_and_writes_another(llama, table):
    source, seen = tap(llama, 0), []
    target = llama.taps["blocks.1.hook_mlp_out"]
    found = splice_metrics(
        llama, target, lambda x: seen.append(x) or torch.zeros_like(x), table, DOCUMENTS, batch_size=24, read=source
    )
    itself = []
    splice_metrics(llama, source, lambda x: itself.append(x) or x, table, DOCUMENTS, batch_size=24)
    assert torch.equal(seen[0], itself[0]) and found.ce_spliced == found.ce_zero_ablated


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_into_a_block_is_what_comes_out_of_the_one_before(trained, table, kind):
    causal = load_causal_lm(kind, HOOKS, model_root=trained)
    into = Tap(module=block_of(causal.model, 2), of_input=True)
    assert causal.taps["blocks.1.hook_mlp_out"].module is not tap(causal, 1).module
    before = splice_metrics(causal, tap(causal, 1), lossy, table, DOCUMENTS, batch_size=8)
    assert splice_metrics(causal, into, lossy, table, DOCUMENTS, batch_size=8) == before


def test_a_hook_without_a_vector_a_token_is_a_reason(llama, table):
    for module, why in ((llama.model.model.rotary_emb, "no vector a token"), (torch.nn.Linear(2, 2), "does not run")):
        found = splice_metrics(llama, Tap(module=module), lossy, table, DOCUMENTS, batch_size=8)
        assert why in found.not_measured and found.ce_clean is None


def test_tokens_are_bounded_by_whole_sequences(llama, table):
    block = tap(llama, 0)
    few = splice_metrics(llama, block, lossy, table, DOCUMENTS, batch_size=4, max_tokens=30)
    one = splice_metrics(llama, block, lossy, table, DOCUMENTS, batch_size=4, max_tokens=1)
    assert 15 < few.tokens <= 30 and one.tokens == int(table.real_tokens()[0])


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_reconstruction_that_is_no_number_is_said_so(llama, table, value):
    found = splice_metrics(llama, tap(llama, 0), lambda x: torch.full_like(x, value), table, DOCUMENTS, batch_size=9)
    assert found.ce_loss_recovered is None and "spliced model is not finite" in found.not_measured


def test_nothing_to_predict_is_said_so(llama, table):
    found = splice_metrics(llama, tap(llama, 0), lossy, table, [], batch_size=9)
    assert found.kl_divergence is None and "two tokens" in found.not_measured


def test_an_ablation_without_cost_gives_no_scale():
    assert splice.recovered(1.0, 1.0, 1.0) is None and splice.recovered(2.0, 1.5, 1.0) is None
    assert splice.recovered(1.0, 1.5, 3.0) == 0.75


def test_a_cancel_leaves_no_hook_behind(llama, table):
    class Stopped(Exception):
        pass

    def reconstruct(_x_ND):
        raise Stopped

    block = tap(llama, 0)
    with pytest.raises(Stopped):
        splice_metrics(llama, block, reconstruct, table, DOCUMENTS, batch_size=4)
    hooks = [h for m in llama.model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == []


def test_looking_ahead_is_a_reason(trained, table):
    llama = load_causal_lm("llama", HOOKS, model_root=trained)
    for module in llama.model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    llama.model.config.is_causal = False
    found = splice_metrics_of(llama, tap(llama, 0), [lossy, lossy], table, DOCUMENTS, batch_size=4)
    assert ["later tokens" in f.not_measured and f.kl_divergence is None for f in found] == [True, True]


def test_absence_has_a_reason_and_no_figure():
    absent = SpliceMetrics.absent("why")
    assert absent.not_measured == "why" and absent.ce_clean is absent.kl_divergence is absent.ce_loss_recovered is None


def test_what_the_model_or_the_memory_forbids_is_a_reason(trained, llama, table, models):
    def measure():
        return splice_metrics_of(llama, tap(llama, 0), [lossy], table, DOCUMENTS, batch_size=24)

    assert or_absent(measure, 1) == measure()
    encoder = or_absent(lambda: load_causal_lm("bert", [], model_root=models), 2)
    assert len(encoder) == 2 and "architecture bert has no head" in encoder[1].not_measured
    small = or_absent(lambda: load_causal_lm("llama", HOOKS, model_root=trained, available_bytes=10**6), 1)
    assert "0.0 GB are free" in small[0].not_measured and small[0].ce_clean is None

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert "memory" in or_absent(full, 1)[0].not_measured
