"""Cancel works while a training job is queued, loading, training and writing; devices and files are freed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mistudio.job.v1 import job_service_pb2

from mistudio_core.home import Home
from mistudio_rpc.client import Client
from tests.e2e.conftest import training
from tests.support.processes import control_process, running_workers

STAGES = {
    "loading model": {"max_epochs": 10_000},
    "harvest and train": {"max_epochs": 10_000},
    # the codes wait a while before they are durable, so that a cancel meets them
    "writing": {"max_epochs": 2},
}


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_in_every_stage(stage: str, tiny_home: Home, corpus_file: Path, monkeypatch):
    monkeypatch.setenv("MISTUDIO_FAILPOINTS", "codes.before_fsync=sleep:2")
    with control_process(tiny_home, "train"), Client(tiny_home.control_target, tiny_home.token()) as client:
        client.upload_corpus(corpus_file)
        job_id = client.train.StartTraining(training(**STAGES[stage])).job_id
        queued = client.train.StartTraining(training()).job_id
        for event in client.watch(job_id):
            if event.WhichOneof("event") == "progress" and event.progress.stage == stage:
                break
        began = time.monotonic()
        client.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=queued))
        client.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id))
        for cancelled in (queued, job_id):
            assert list(client.watch(cancelled))[-1].finished.status == 6
        assert time.monotonic() - began < 10
        ends = time.monotonic() + 30
        while any(tiny_home.scratch.glob("*")) and time.monotonic() < ends:
            time.sleep(0.1)  # the worker process ends after its report
        assert running_workers(tiny_home) == []
        assert list(tiny_home.artifacts.glob("staging/*")) == []
        assert list(tiny_home.scratch.glob("*")) == []
