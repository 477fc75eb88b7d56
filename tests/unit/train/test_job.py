"""Whole training jobs on tiny models: what comes out, resume bit for bit, and every refusal."""

import json
import random

import numpy as np
import pytest
import torch

from mistudio_core.errors import Cancelled, Corrupt, Failed, InvalidInput, LimitReached
from mistudio_core.jobs.local import LocalContext
from mistudio_torch.codes import CodesReader
from mistudio_torch.formats.saelens import load_sae
from mistudio_train import job, report
from mistudio_train.config import TrainConfig
from tests.support import tinymodels


def config(model_root, **overrides):
    base = {
        "model_name": "bert",
        "model_root": model_root,
        "layer_number": 1,
        "architecture": "topk",
        "hidden_dim": 48,
        "k": 4,
        "learning_rate": 3e-3,
        "max_epochs": 3,
        "min_loss": 0.0,
        "sae_batch_tokens": 64,
        "block_tokens": 256,
        "batch_size": 8,
        "max_sequence_length": 16,
        "threads": 1,
    }
    return TrainConfig(**(base | overrides))


class Cancelling(LocalContext):
    """Cancels itself at the n-th chance, as a kill would end it."""

    left = 1 << 30

    def check_cancelled(self):
        self.left -= 1
        if self.left <= 0:
            raise Cancelled


@pytest.fixture
def every_block(monkeypatch):
    monkeypatch.setattr(report.Clock, "checkpoint_due", lambda self: True)


@pytest.mark.parametrize(
    ("architecture", "model"), [("topk", "bert"), ("standard", "gpt2"), ("matryoshka", "gpt2"), ("gated", "bert")]
)
def test_a_run_and_everything_it_leaves(model_root, make_context, architecture, model):
    ctx = make_context()
    result = job.run(config(model_root, architecture=architecture, model_name=model), ctx)
    stats, corpus = result.training_stats, result.corpus
    assert stats.total_epochs == 3 and stats.tokens > 3 * 64 and 0 < stats.fvu < 1.5 and stats.deterministic
    assert stats.explained_variance == pytest.approx(1 - stats.fvu) and stats.final_loss == stats.fvu
    assert [g.name for g in stats.quality_gates] == [
        "reconstruction",
        "activation_rate",
        "convergence",
        "dead_features",
    ]
    assert all(bool(g.remedy) != g.passed for g in stats.quality_gates)
    assert result.feature_count == 48 and result.model_info.selected_layer == 1 and result.model_info.total_layers == 3
    assert corpus.documents == 120 and 0 < corpus.heldout_documents < 40 and corpus.code_tokens == corpus.tokens
    sae, cfg = load_sae(ctx.reader("sae").path)
    assert ctx.reader("sae").record.file("sae_weights.safetensors").sha256 == result.sae_sha256
    assert cfg["metadata"]["hook_name"] == "blocks.1.hook_resid_post" and sae.shape.d_sae == 48
    metadata = json.loads(ctx.reader("metadata").read_bytes("metadata.json"))
    assert (
        metadata["config"]["seed"] == 0
        and metadata["versions"]["torch"]
        and metadata["sae_sha256"] == result.sae_sha256
    )
    assert str(model_root) not in json.dumps(metadata)
    check_codes(CodesReader(ctx.reader("codes")), ctx, result)
    fractions = [f for _, f in ctx.progress_reports]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    wanted = "loss current_loss l0 explained_variance dead_features tokens_per_second learning_rate epoch"
    assert set(ctx.metric_reports[-1][1]) == set(wanted.split())


def check_codes(codes, ctx, result):
    lines = ctx.input("corpus").read_bytes("corpus.txt").decode().splitlines()
    assert (codes.n_documents, codes.n_tokens, codes.d_sae) == (120, result.corpus.tokens, 48)
    assert [codes.text(d) for d in range(120)] == lines
    assert sum(codes.heldout(d) for d in range(120)) == result.corpus.heldout_documents
    assert codes.meta["sae_sha256"] == result.sae_sha256 and codes.meta["layer"] == 1
    document = 17
    words = [lines[document][a:b] for a, b in codes.spans(document)]
    assert words == lines[document].split() and len(codes.token_ids(document)) == len(words)
    feature = int(np.argmax(codes.frequency()))
    values = codes.feature(feature)
    assert (values.values > 0).all() and (np.diff(values.positions) > 0).all()


def test_codes_are_what_the_saved_sae_says_of_the_text(model_root, make_context):
    from mistudio_torch.lm.hooks import residual_after
    from mistudio_torch.lm.load import load_lm

    ctx = make_context()
    job.run(config(model_root), ctx)
    codes, (sae, _) = CodesReader(ctx.reader("codes")), load_sae(ctx.reader("sae").path)
    lm = load_lm("bert", 1, model_root=model_root)
    document = next(d for d in range(120) if len(codes.token_ids(d)) < 14)
    ids = torch.tensor(lm.tokenizer(codes.text(document))["input_ids"]).unsqueeze(0)
    x = residual_after(lm.model, lm.block, ids, torch.ones_like(ids))[0, 1:-1]
    expected = sae.encode(x)
    start, end = codes.doc_tokens(document)
    found = {}
    for feature in range(48):
        entry = codes.feature(feature)
        for position, value in zip(entry.positions, entry.values, strict=True):
            if start <= position < end:
                found[int(position - start), feature] = value
    wanted = {(int(t), int(f)): float(v) for t, f, v in zip(*expected, strict=True)}
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([found[k] for k in wanted], list(wanted.values()), rtol=5e-3)


@pytest.mark.parametrize(
    ("architecture", "seed"),
    [("topk", 0), ("topk", 1), ("standard", 2), ("batchtopk", 3), ("jumprelu", 4), ("gated", 5), ("matryoshka", 6)],
)
def test_killed_and_resumed_is_bit_identical(model_root, make_context, every_block, architecture, seed):
    settings = config(model_root, architecture=architecture, seed=3)
    whole = job.run(settings, make_context(folder="whole", cls=Cancelling))
    rng = random.Random(seed)
    resumed = 0
    for _ in range(20):
        ctx = make_context(folder="killed", cls=Cancelling)
        ctx.left = rng.randint(30, 120)
        try:
            result = job.run(settings, ctx)
        except Cancelled:
            resumed += any(a.kind == "checkpoint" for a in ctx.artifacts)
            continue
        break
    else:
        ctx = make_context(folder="killed", cls=Cancelling)
        result = job.run(settings, ctx)
    assert resumed >= 1 and any("Resumed at step" in line for _, line in ctx.log_lines)
    assert result.sae_sha256 == whole.sae_sha256
    assert result.training_stats.explained_variance == whole.training_stats.explained_variance
    assert result.training_stats.tokens == whole.training_stats.tokens


def test_seed_decides_and_checkpoints_do_not(model_root, make_context, every_block, monkeypatch):
    with_checkpoints = job.run(config(model_root), make_context(folder="a")).sae_sha256
    monkeypatch.setattr(report.Clock, "checkpoint_due", lambda self: False)
    assert job.run(config(model_root), make_context(folder="b")).sae_sha256 == with_checkpoints
    assert job.run(config(model_root, seed=1), make_context(folder="c")).sae_sha256 != with_checkpoints


def test_a_checkpoint_of_something_else_is_refused(model_root, make_context, every_block):
    job.run(config(model_root, max_epochs=1), make_context())
    with pytest.raises(InvalidInput, match="another model revision"):
        job.run(config(model_root, max_epochs=1, hidden_dim=56), make_context())
    ctx = make_context()
    for record in ctx.artifacts:
        if record.kind == "checkpoint":
            (ctx.store.root / record.folder / "state.json").write_bytes(b"damage")
    with pytest.raises(Corrupt) as refusal:
        job.run(config(model_root, max_epochs=1), ctx)
    assert refusal.value.reason == "CHECKPOINT_LOST"


def test_token_budget_and_early_stop(model_root, make_context):
    budget = job.run(config(model_root, token_budget=500, max_epochs=50), make_context(folder="a")).training_stats
    assert 500 <= budget.tokens < 500 + 2 * 64 and budget.total_epochs == 1
    early = job.run(config(model_root, min_loss=900.0, max_epochs=50), make_context(folder="b")).training_stats
    assert early.total_epochs == 1


def test_non_finite_loss_fails_before_the_update(model_root, make_context, monkeypatch):
    harvest = job.Run.blocks

    def poisoned(self, blocks):
        for found in harvest(self, blocks):
            yield {name: x * 1e20 for name, x in found.items()}

    monkeypatch.setattr(job.Run, "blocks", poisoned)
    with pytest.raises(Failed, match="step 1") as failure:
        job.run(config(model_root, normalize_activations=False), make_context())
    assert failure.value.reason == "NON_FINITE_LOSS" and failure.value.facts["step"] == "1"


def test_activations_that_are_no_numbers_are_refused(model_root, make_context, monkeypatch):
    harvest = job.Run.blocks

    def poisoned(self, blocks):
        for found in harvest(self, blocks):
            for x in found.values():
                x[5, 2] = float("nan")
            yield found

    monkeypatch.setattr(job.Run, "blocks", poisoned)
    with pytest.raises(InvalidInput, match="the first in row 5") as refusal:
        job.run(config(model_root), make_context())
    assert refusal.value.reason == "ACTIVATIONS_INVALID"


@pytest.mark.parametrize("text", ("", "\n \n\t\n"))
def test_empty_corpus(model_root, make_context, text):
    with pytest.raises(InvalidInput) as refusal:
        job.run(config(model_root), make_context(text))
    assert refusal.value.reason == "CORPUS_EMPTY"


@pytest.mark.parametrize("text", ("the cat", "the cat\na dog", "cat"))
def test_tiny_corpora_work(model_root, make_context, text):
    ctx = make_context(text)
    result = job.run(config(model_root), ctx)
    assert result.corpus.documents == len(text.splitlines()) and result.training_stats.heldout_tokens > 0
    assert np.isfinite(result.training_stats.fvu)


def test_layer_length_and_memory_are_checked_before_work(model_root, make_context, monkeypatch):
    with pytest.raises(InvalidInput) as refusal:
        job.run(config(model_root, layer_number=3), make_context())
    assert refusal.value.reason == "LAYER_OUT_OF_RANGE"
    with pytest.raises(InvalidInput, match="max_sequence_length"):
        job.run(config(model_root, max_sequence_length=33), make_context())
    monkeypatch.setattr("mistudio_train.memory_plan.available_bytes", lambda: 1000)
    monkeypatch.setattr("mistudio_train.planner.resident_bytes", lambda: 0)
    with pytest.raises(LimitReached) as short:
        job.run(config(model_root), make_context())
    assert short.value.reason == "INSUFFICIENT_MEMORY"


def test_codes_of_a_part_of_the_corpus(model_root, make_context):
    ctx = make_context("\n".join(tinymodels.sentences(300)))
    result = job.run(config(model_root, max_code_tokens=1000, max_epochs=1), ctx)
    codes = CodesReader(ctx.reader("codes"))
    assert result.corpus.code_tokens == codes.n_tokens <= 1000 < result.corpus.tokens and codes.n_tokens > 900


@pytest.mark.parametrize("calls", (1, 2, 3, 10, 60))
def test_cancel_is_noticed_everywhere_and_leaves_no_staging(model_root, make_context, calls):
    ctx = make_context(cls=Cancelling)
    ctx.left = calls
    with pytest.raises(Cancelled):
        job.run(config(model_root), ctx)
    assert not list(ctx.store.staging.iterdir())
