"""Activations kept between epochs, and the layer that a job chooses itself."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from mistudio_core.errors import Cancelled, DiskFull, InvalidInput, Unsupported
from mistudio_train import activation_cache, job, layer_probe
from mistudio_train.activation_cache import ActivationCache
from mistudio_train.layer_probe import context_share
from tests.unit.train.test_job import Cancelling, config, every_block  # noqa: F401  (a fixture)

WIDTHS = {"a": 3, "b": 2}
TOKENS = np.array([2, 0, 3, 1])
DOCUMENTS = np.array([0, 2, 3])


def rows(documents):
    n = int(TOKENS[documents].sum())
    return {name: torch.randn(n, width) for name, width in WIDTHS.items()}


def test_what_was_kept_comes_back_in_any_order(tmp_path):
    cache = ActivationCache(tmp_path, WIDTHS, TOKENS, DOCUMENTS)
    first = rows(np.array([2, 0]))
    assert not cache.holds(np.array([2])) and activation_cache.size_of(WIDTHS, TOKENS, DOCUMENTS) == 6 * 5 * 4
    cache.write(np.array([2, 0]), first)
    again = ActivationCache(tmp_path, WIDTHS, TOKENS, DOCUMENTS)
    assert again.holds(np.array([0, 2])) and not again.holds(DOCUMENTS) and again.read(DOCUMENTS) is None
    found = again.read(np.array([0, 2]))
    assert all(torch.equal(found[name], torch.cat([x[3:], x[:3]])) for name, x in first.items())


def test_damaged_rows_are_not_used(tmp_path):
    cache = ActivationCache(tmp_path, WIDTHS, TOKENS, DOCUMENTS)
    cache.write(DOCUMENTS, rows(DOCUMENTS))
    with (tmp_path / "0.f32").open("r+b") as handle:
        handle.write(b"\x01\x02\x03")
    again = ActivationCache(tmp_path, WIDTHS, TOKENS, DOCUMENTS)
    assert again.read(np.array([0])) is None and not again.holds(np.array([0]))
    assert again.read(np.array([2, 3])) is not None


def test_a_cache_that_does_not_fit_says_what_it_takes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(1, 1, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="cache_activations"):
        ActivationCache(tmp_path, WIDTHS, TOKENS, DOCUMENTS)


def test_later_epochs_need_no_model_and_a_kill_changes_nothing(model_root, make_context, every_block, monkeypatch):  # noqa: F811
    cfg = config(model_root, cache_activations=True)
    harvested = []
    whole = job.run.__globals__["Run"].blocks

    def counted(run, blocks):
        harvested.append([run.cache.holds(b) for b in blocks])
        return whole(run, blocks)

    monkeypatch.setattr(job.run.__globals__["Run"], "blocks", counted)
    plain = make_context(folder="plain")
    expected = job.run(cfg, plain).sae_sha256
    assert len(harvested) == 3 and not any(harvested[0]) and all(harvested[1]) and all(harvested[2])
    assert any("kept on the disk" in line for _, line in plain.log_lines)
    killed = make_context(folder="killed", cls=Cancelling)
    killed.left = 70
    with pytest.raises(Cancelled):
        job.run(cfg, killed)
    killed.left = 1 << 30
    assert job.run(cfg, killed).sae_sha256 == expected
    assert activation_cache.size_of({"x": 2}, TOKENS, DOCUMENTS) == 48


def test_context_share_is_what_a_token_does_not_say():
    generator = np.random.default_rng(0)
    token_N = np.repeat(np.arange(50), 40)
    means = generator.normal(size=(50, 8))
    noise = generator.normal(size=(2000, 8))
    assert context_share(torch.from_numpy(means[token_N]), token_N) == pytest.approx(0, abs=1e-12)
    assert context_share(torch.from_numpy(noise), token_N) == pytest.approx(1, abs=0.02)
    assert context_share(torch.from_numpy(means[token_N] + noise), token_N) == pytest.approx(0.5, abs=0.06)
    assert context_share(torch.from_numpy(noise), np.arange(2000)) == 0


def test_the_job_chooses_a_layer_once_and_says_why(model_root, make_context, every_block, monkeypatch):  # noqa: F811
    cfg = config(model_root, layer_number=None, auto_layer=True, max_epochs=1)
    assert cfg.candidate_layers(12) == (1, 3, 5, 7, 9) and cfg.candidate_layers(3) == (0, 1)
    ctx = make_context()
    save = job.save_checkpoint

    def killed(*args):
        raise Cancelled

    monkeypatch.setattr(job, "save_checkpoint", killed)
    with pytest.raises(Cancelled):
        job.run(cfg, ctx)
    monkeypatch.setattr(job, "save_checkpoint", save)
    kept = json.loads((ctx.kept / "layer.json").read_text())
    assert {s["layer"] for s in kept["scores"]} == {0, 1}
    monkeypatch.setattr(job, "probe", None)  # the second attempt must not need it
    result = job.run(cfg, ctx)
    assert result.model_info.selected_layer == kept["layer"]
    assert any(f"Layer {kept['layer']} of 3 was chosen" in line for _, line in ctx.log_lines)
    assert layer_probe.known_layer(ctx) == kept["layer"]


def test_choices_that_exclude_each_other_are_refused(model_root):
    with pytest.raises(InvalidInput, match="auto_layer"):
        config(model_root, auto_layer=True, hook="blocks.1.hook_resid_post")
    with pytest.raises(Unsupported, match="cache_activations"):
        config(model_root, cache_activations=True, processes=2)
