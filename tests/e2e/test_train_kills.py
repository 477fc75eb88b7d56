"""kill -9 of the training worker, many times in one run: the SAE is the one of an undisturbed run, byte for byte.

`make soak` sets MISTUDIO_TEST_KILLS to 200.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from mistudio.train.v1 import train_service_pb2

from mistudio_core.home import Home
from mistudio_rpc.client import Client
from tests.e2e.conftest import training
from tests.support.processes import control_process, kill_worker

KILLS = int(os.environ.get("MISTUDIO_TEST_KILLS", "5"))


def finish(client: Client, job_id: str) -> train_service_pb2.GetTrainingResultResponse:
    events = list(client.watch(job_id))
    assert events[-1].finished.status == 4, events[-1]
    return client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))


@pytest.mark.timeout(60 + 30 * KILLS)
def test_kills_at_random_instants_give_the_same_sae(tiny_home: Home, corpus_file: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rng = random.Random(3)
    request = training(max_epochs=30 * KILLS)
    with control_process(tiny_home, "train"), Client(tiny_home.control_target, tiny_home.token()) as client:
        client.upload_corpus(corpus_file)
        undisturbed = finish(client, client.train.StartTraining(request).job_id)
        job_id = client.train.StartTraining(request).job_id
        kills, checkpoints = 0, 0
        for event in client.watch(job_id):
            kind = event.WhichOneof("event")
            checkpoints += kind == "checkpoint"
            if kind == "checkpoint" and kills < KILLS:
                time.sleep(rng.uniform(0.0, 0.3))
                kills += kill_worker(tiny_home, job_id)
        disturbed = finish(client, job_id)
    assert kills == KILLS
    assert disturbed.sae_sha256 == undisturbed.sae_sha256
    assert disturbed.training_stats.fvu == undisturbed.training_stats.fvu
    assert disturbed.training_stats.deterministic
