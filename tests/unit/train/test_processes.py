"""Several processes train as one does: the same curve, resume only with as many, refusals."""

import pytest

from mistudio_core.errors import Cancelled, InvalidInput, Unsupported
from mistudio_train import job, report
from mistudio_train.config import TrainConfig
from tests.unit.train.test_job import Cancelling, config

TOLERANCE = 0.02
"""Of the loss: every process divides by the variance of its own half of a batch."""


def losses(ctx):
    return [values["current_loss"] for _, values in ctx.metric_reports]


def test_two_processes_give_the_curve_of_one(model_root, make_context, monkeypatch):
    settings = {"max_epochs": 2, "sae_batch_tokens": 256, "learning_rate": 1e-3}
    one, two = make_context(folder="one"), make_context(folder="two")
    job.run(config(model_root, **settings), one)
    result = job.run(config(model_root, processes=2, **settings), two)
    assert losses(two) == pytest.approx(losses(one), rel=TOLERANCE)
    assert [a.kind for a in two.artifacts] == [a.kind for a in one.artifacts]
    assert result.training_stats.tokens > 0 and "following" not in str(two.log_lines)


def test_the_world_of_a_checkpoint_is_kept(model_root, make_context, monkeypatch):
    monkeypatch.setattr(report.Clock, "checkpoint_due", lambda self: True)
    settings = {"max_epochs": 1, "processes": 2}
    whole = job.run(config(model_root, **settings), make_context(folder="whole"))
    ctx = make_context(folder="killed", cls=Cancelling)
    ctx.left = 60
    with pytest.raises(Cancelled):
        job.run(config(model_root, **settings), ctx)
    assert any(a.kind == "checkpoint" for a in ctx.artifacts)
    with pytest.raises(InvalidInput, match="processes"):
        job.run(config(model_root, max_epochs=1), make_context(folder="killed"))
    resumed = job.run(config(model_root, **settings), make_context(folder="killed"))
    assert resumed.sae_sha256 == whole.sae_sha256


def test_what_several_processes_cannot_do():
    from mistudio_train.processes import check

    with pytest.raises(Unsupported, match="GPU"):
        check(TrainConfig(model_name="m", processes=2), on_gpu=True)
    with pytest.raises(Unsupported, match="Upload"):
        check(TrainConfig(model_name="m", processes=2, corpus_name="hf:a/b"), on_gpu=False)
