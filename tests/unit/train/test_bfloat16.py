"""Models that are stored in bfloat16 train on activations of bfloat16 products; figures and codes stay exact."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio_torch.lm.load import load_lm
from mistudio_train import job, run
from mistudio_train.config import TrainConfig
from tests.support import tinymodels


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same model twice: `stored` has bfloat16 weights, `wide` the same numbers as float32."""
    root = tmp_path_factory.mktemp("bfloat16")
    for name, dtype in (("stored", torch.bfloat16), ("wide", torch.float32)):
        file = tinymodels.make(root / name, "llama") / "model.safetensors"
        weights = {k: t.bfloat16().to(dtype) for k, t in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    return root


@pytest.fixture
def trained(models, make_context, monkeypatch):
    """Trains one of them on a processor that is fast at bfloat16, or is not."""

    def train(name, *, dtype="auto", fast=True):
        monkeypatch.setattr(run, "has_fast_bfloat16", lambda: fast)
        context = make_context(folder=f"{name}-{dtype}-{fast}")
        config = TrainConfig(
            model_name=name, model_root=models, layer_number=1, architecture="topk", hidden_dim=48, k=4, threads=1,
            max_epochs=1, min_loss=0.0, sae_batch_tokens=64, block_tokens=256, max_sequence_length=16, dtype=dtype,
        )  # fmt: skip
        job.run(config, context)
        return context

    return train


def weights_of(context):
    return load_file(context.reader("sae").path("sae_weights.safetensors"))


def metadata_of(context):
    return json.loads(context.reader("metadata").read_bytes("metadata.json"))


def test_what_is_stored_is_known(models):
    assert load_lm("stored", 1, model_root=models).stored_bfloat16
    assert not load_lm("wide", 1, model_root=models).stored_bfloat16


def test_only_where_weights_processor_and_request_allow_it(trained):
    plain = weights_of(trained("wide"))
    for context in (trained("stored", fast=False), trained("stored", dtype="float32")):
        assert all(torch.equal(plain[k], t) for k, t in weights_of(context).items())
        assert metadata_of(context)["bfloat16_harvest"] is False


def test_training_differs_by_rounding_alone_and_figures_and_codes_are_of_exact_activations(trained, monkeypatch):
    asked, harvest, harvest_blocks = [], run.harvest, run.harvest_blocks
    monkeypatch.setattr(run, "harvest", lambda *a, **k: asked.append(("one", k["bfloat16"])) or harvest(*a, **k))
    monkeypatch.setattr(
        run, "harvest_blocks", lambda *a, **k: asked.append(("many", k["bfloat16"])) or harvest_blocks(*a, **k)
    )
    plain = weights_of(trained("wide"))
    assert set(asked) == {("one", False), ("many", False)}
    asked.clear()
    context = trained("stored")
    assert set(asked) == {("one", False), ("many", True)}
    assert metadata_of(context)["bfloat16_harvest"] is True
    changed = [float((t - plain[k]).norm() / plain[k].norm().clamp_min(1e-6)) for k, t in weights_of(context).items()]
    assert 0 < max(changed) < 0.2
