"""`mistudio up` with real processes: one a home, restarts, addresses that stay, everything stopped by `down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from mistudio_cli import endpoints
from mistudio_core.home import Home


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it took too long"
        time.sleep(0.02)
    return time.monotonic() - began


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
            return json.load(reply)["status"] == "healthy"
    except (OSError, urllib.error.URLError):
        return False


def child(home: Home, name: str) -> endpoints.ProcessRef:
    state = endpoints.read_state(home)
    assert state is not None
    return state.children[name]


def test_it_says_where_it_is_and_a_second_one_says_the_same(up: dict[str, Any], mistudio):
    assert healthy(up["http"])
    again = mistudio("up", "--http", "127.0.0.1:0")
    assert again.returncode == 0
    assert "already runs" in again.stdout
    assert up["http"] in again.stdout
    assert f"{up['http']}/docs" in again.stdout


@pytest.mark.parametrize("name", ["control", "gateway"])
def test_a_killed_process_serves_again_at_the_same_address(up: dict[str, Any], home: Home, name: str):
    before = child(home, name)
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: child(home, name) != before, 5)
    assert wait_for(lambda: healthy(up["http"]), 5) < 5
    found = endpoints.read(home)
    assert found is not None
    assert (found.url, found.grpc) == (up["http"], up["grpc"])


def test_down_stops_everything(up: dict[str, Any], home: Home, mistudio):
    state = endpoints.read_state(home)
    assert state is not None
    done = mistudio("down")
    assert (done.returncode, done.stdout) == (0, "miStudio is stopped.\n")
    assert not any(ref.alive() for ref in (state.supervisor, *state.children.values()))
    assert not healthy(up["http"])
    assert endpoints.read(home) is None
    again = mistudio("down")
    assert again.returncode == 0
    assert "does not run" in again.stdout


def test_after_a_killed_supervisor_the_next_one_takes_over(up: dict[str, Any], home: Home, mistudio):
    before = endpoints.read_state(home)
    assert before is not None
    os.kill(before.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not before.supervisor.alive(), 5)
    done = mistudio("up", "--detach", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--json")
    assert done.returncode == 0, done.stderr
    assert healthy(json.loads(done.stdout)["http"])
    assert not any(ref.alive() for ref in before.children.values())


def test_status_shows_processes_health_and_jobs(up: dict[str, Any], home: Home, mistudio):
    report = json.loads(mistudio("status", "--json").stdout)
    assert report["healthy"]
    assert {name for name, p in report["processes"].items() if p["alive"]} == {"up", "control", "gateway"}
    assert report["jobs"]["train"] == {"running": 0, "queued": 0, "paused": 0}
    assert report["grpc"] == up["grpc"]
    text = mistudio("status").stdout
    assert "healthy" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_port_in_use_is_a_clear_error(mistudio, detach: list[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = mistudio("up", "--http", address, "--grpc", "127.0.0.1:0", *detach)
    assert done.returncode == 1
    assert done.stderr.startswith("ADDRESS_IN_USE: ")
    assert address in done.stderr
    assert "--http" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert json.loads(mistudio("status", "--json").stdout)["running"] is False


def test_an_open_address_without_a_certificate_is_refused(mistudio):
    done = mistudio("up", "--http", "0.0.0.0:0", "--grpc", "127.0.0.1:0")
    assert done.returncode == 1
    assert "--tls-cert" in done.stderr


def test_the_foreground_stops_in_order_on_a_signal(home: Home, environment):
    command = [sys.executable, "-m", "mistudio_cli", "up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "miStudio is ready.\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert endpoints.read_state(home) is None
