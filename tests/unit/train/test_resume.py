"""Everything that a checkpoint keeps is needed: a run that resumes without one part of it ends elsewhere."""

import pytest
import torch

from mistudio_core.errors import Cancelled
from mistudio_train import checkpoint, job, report, trainer
from tests.unit.train.test_job import Cancelling, config


def forget_moments(member):
    member.trainer.optimizer.state.clear()


def forget_schedule(member):
    member.trainer.progress.tokens = 0


def forget_dead_counters(member):
    member.trainer.since_fired_F.zero_()


def forget_normalisation(member):
    member.trainer.source = member.trainer.target = None


def forget_the_place_in_the_data(member):
    member.trainer.progress.block = max(0, member.trainer.progress.block - 1)


def forget_the_threshold(member):
    for buffer in member.trainer.sae.buffers():
        buffer.zero_()


def forget_nothing(member):
    pass


LOSSES = (
    forget_moments,
    forget_schedule,
    forget_dead_counters,
    forget_normalisation,
    forget_the_place_in_the_data,
    forget_the_threshold,
)


@pytest.fixture
def settings(model_root, monkeypatch):
    monkeypatch.setattr(report.Clock, "checkpoint_due", lambda self: True)
    monkeypatch.setattr(trainer, "_DEAD_LEAST", 100)  # features die early, so that their counters matter
    return config(model_root, architecture="batchtopk", max_epochs=2, hidden_dim=96, splice_tokens=0)


@pytest.fixture
def stopped(settings, make_context):
    """A folder with the checkpoints of a run that was stopped half way."""
    ctx = make_context(folder="stopped", cls=Cancelling)
    ctx.left = 90
    with pytest.raises(Cancelled):
        job.run(settings, ctx)
    assert any(a.kind == "checkpoint" for a in ctx.artifacts)
    return "stopped"


@pytest.mark.parametrize("forget", (forget_nothing, *LOSSES), ids=lambda f: f.__name__)
def test_every_part_of_a_checkpoint_is_needed(settings, make_context, stopped, monkeypatch, forget):
    whole = job.run(settings, make_context(folder="whole")).sae_sha256
    restore = checkpoint._restore

    def restored(member, state, tensors):
        restore(member, state, tensors)
        with torch.no_grad():
            forget(member)

    monkeypatch.setattr(checkpoint, "_restore", restored)
    resumed = job.run(settings, make_context(folder=stopped)).sae_sha256
    assert (resumed == whole) is (forget is forget_nothing)
