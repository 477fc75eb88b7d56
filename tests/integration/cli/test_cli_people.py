"""What goes wrong for people at a terminal, and what they read then."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.cli.test_cli_commands import MODEL, corpus, device_taken, pipeline

__all__ = ["corpus", "device_taken", "pipeline"]  # fixtures that these tests share with the commands'


def test_a_run_that_is_refused_half_way_leaves_nothing_behind(device_taken, up, mistudio, corpus: Path):
    done = mistudio("run", "--model", MODEL, "--corpus", str(corpus), "--layer", "1", "--engine", "nope")
    assert done.returncode == 1
    assert "ENGINE_NOT_FOUND" in done.stderr
    assert "Nothing was started" in done.stderr
    jobs = json.loads(mistudio("jobs", "list", "--json").stdout)["jobs"]
    assert {job["status"] for job in jobs} == {"cancelled"}


def test_a_watch_follows_miStudio_to_another_address(pipeline: dict[str, str], environment, mistudio):
    command = [sys.executable, "-m", "mistudio_cli", "jobs", "watch", pipeline["train"]]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        watch.stdout.readline()
        mistudio("down")
        time.sleep(2.5)
        assert mistudio("up", "--detach", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0").returncode == 0
        mistudio("jobs", "cancel", pipeline["train"])
        output, errors = watch.communicate(timeout=30)
    assert "finished: cancelled" in output
    assert "waiting for it" in errors


def test_cancelling_what_has_ended_says_so(pipeline: dict[str, str], mistudio):
    mistudio("jobs", "cancel", pipeline["train"])
    done = mistudio("jobs", "cancel", pipeline["train"])
    assert done.returncode == 0
    assert "cancelled already; nothing to cancel" in done.stdout


def test_a_job_of_the_wrong_kind_is_named(pipeline: dict[str, str], mistudio):
    done = mistudio("find", pipeline["find"])
    assert done.returncode == 1
    assert "it belongs to find" in done.stderr


@pytest.mark.parametrize("place", ["taken.txt", "/proc/nowhere"])
def test_a_home_that_cannot_be_one_is_a_sentence(mistudio, tmp_path: Path, place: str):
    (tmp_path / "taken.txt").touch()
    done = mistudio("status", "--home", str(tmp_path / place))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Choose another place" in done.stderr
