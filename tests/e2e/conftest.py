"""A home with a tiny model, a small corpus and a completed pipeline, made once for the folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mistudio.explain.v1 import explain_service_pb2
from mistudio.feature.v1 import sae_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.train.v1 import train_service_pb2

from mistudio_core.home import Home
from mistudio_rpc.client import Client
from tests.support import fakehub, tinymodels
from tests.support.processes import control_process, gateway_process

GATED_TOKEN = "hf_canary_open_the_gate_0123456789"


@pytest.fixture
def tiny_home(home: Home) -> Home:
    """A fresh home whose model root holds the tiny model `tiny`."""
    tinymodels.make(home.models / "tiny", "llama", layers=3)
    return home


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("\n".join(tinymodels.sentences(400)))
    return path


def training(**fields) -> train_service_pb2.StartTrainingRequest:
    """A training request that takes seconds."""
    values = {
        "model_name": "tiny",
        "corpus_file": "small.txt",
        "layer_number": 1,
        "hidden_dim": 64,
        "architecture": sae_pb2.ARCHITECTURE_TOPK,
        "k": 4,
        "learning_rate": 1e-3,
        "max_sequence_length": 16,
        "sae_batch_tokens": 128,
        "max_epochs": 3,
        "min_loss": 0.0,
        "checkpoint_interval_seconds": 0.1,
    }
    return train_service_pb2.StartTrainingRequest(**{**values, **fields})


@dataclass
class Pipeline:
    """Running processes and the ids of one completed job of each service."""

    home: Home
    client: Client
    http: httpx.Client
    grpc: str
    train: str
    find: str
    explain: str


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The whole chain through the gateway, submitted at once, each waiting for the one before."""
    folder = tmp_path_factory.mktemp("pipeline")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTUDIO_DEVICE_DIR", str(folder / "devices"))
        patch.setenv("MISTUDIO_HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HOME", str(folder / "hub-cache"))
        home = Home.at()
        tiny = tinymodels.make(home.models / "tiny", "llama", layers=3)
        pickled = home.models / "pickled"
        pickled.mkdir()
        (pickled / "config.json").write_bytes((tiny / "config.json").read_bytes())
        (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02never opened")
        corpus = folder / "small.txt"
        corpus.write_text("\n".join(tinymodels.sentences(400)))
        saes = folder / "saes"  # tests put the files of an SAE here
        saes.mkdir()
        repositories = {"a/open": tiny, "a/gated": tiny, "a/pickled": pickled, "a/saes": saes, "a/own-saes": saes}
        gated = {"a/gated": GATED_TOKEN, "a/closed": GATED_TOKEN, "a/own-saes": GATED_TOKEN}
        data = datasets_in(folder / "datasets")
        hub = stack.enter_context(fakehub.serve(repositories, gated=gated, datasets=data))
        patch.setenv("HF_ENDPOINT", hub.url)
        with control_process(home, "scratch", "train", "find", "explain"), gateway_process(home) as where:
            headers = {"Authorization": f"Bearer {home.token().reveal()}"}
            with (
                Client(where["grpc"], home.token()) as client,
                httpx.Client(base_url=where["url"], headers=headers, timeout=30) as http,
            ):
                yield _run(Pipeline(home, client, http, where["grpc"], "", "", ""), corpus)


def datasets_in(folder: Path) -> dict[str, Path]:
    """Data sets of the hub: JSON lines with labels, and a gated one."""
    found = {f"a/{name}": folder / name for name in ("reviews", "closed")}
    for path in found.values():
        path.mkdir(parents=True)
    lines = [json.dumps({"body": text, "tone": "ab"[n % 2]}) for n, text in enumerate(tinymodels.sentences(300))]
    (found["a/reviews"] / "train.jsonl").write_text("\n".join(lines))
    (found["a/closed"] / "train.jsonl").write_text(lines[0])
    return found


def _run(running: Pipeline, corpus: Path) -> Pipeline:
    client = running.client
    client.upload_corpus(corpus)
    running.train = client.train.StartTraining(training()).job_id
    find = find_service_pb2.StartFindRequest(training_job_id=running.train, wait_for_training=True)
    running.find = client.find.StartFind(find).job_id
    explain = explain_service_pb2.StartExplainRequest(
        find_job_id=running.find, wait_for_find=True, min_coherence=0.0, max_features=20
    )
    running.explain = client.explain.StartExplain(explain).job_id
    for job_id in (running.train, running.find, running.explain):
        last = list(client.watch(job_id))[-1]
        assert last.finished.status == 4, last
    return running


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread a worker: the tests share two cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
