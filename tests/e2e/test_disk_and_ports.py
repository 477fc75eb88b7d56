"""A full disk during a checkpoint, and ports that are taken, with real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from mistudio_core.home import Home
from mistudio_rpc.client import Client
from tests.e2e.conftest import training
from tests.support.processes import ROOT, control_process


def test_a_full_disk_during_a_checkpoint_pauses_and_the_job_goes_on(
    tiny_home: Home, corpus_file: Path, tmp_path: Path, monkeypatch
):
    marker = tmp_path / "was-full"
    monkeypatch.setenv("MISTUDIO_FAILPOINTS", f"checkpoint.before_manifest=once:{marker}:enospc")
    with control_process(tiny_home, "train"), Client(tiny_home.control_target, tiny_home.token()) as client:
        client.upload_corpus(corpus_file)
        job_id = client.train.StartTraining(training(max_epochs=60)).job_id
        events = list(client.watch(job_id))
    paused = [e.state.message for e in events if e.WhichOneof("event") == "state" and e.state.status == 3]
    assert len(paused) == 1
    assert "Disk full while writing checkpoint" in paused[0]
    assert "MB free" in paused[0]
    assert events[-1].finished.status == 4
    assert list(tiny_home.artifacts.glob("staging/*")) == []


def test_a_taken_port_is_named(home: Home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--http", "--grpc"):
            other = "--grpc" if option == "--http" else "--http"
            arguments = ["-m", "gateway", "--home", str(home.root), option, address, other, "127.0.0.1:0"]
            done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
            assert done.returncode == 1
            assert "ADDRESS_IN_USE" in done.stderr
            assert address in done.stderr
            assert option in done.stderr
