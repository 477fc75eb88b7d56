"""The `mistudio` command as people run it: a process, a home of its own, free ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio_core.home import Home

Run = Callable[..., subprocess.CompletedProcess[str]]
_INHERITED_BY_NONE = ("MISTUDIO_ADDRESS", "MISTUDIO_TOKEN", "MISTUDIO_TLS_CA", "HF_TOKEN")
_UP = ("up", "--detach", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--json")


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of every command on a home under `folder`."""
    kept = {name: value for name, value in os.environ.items() if name not in _INHERITED_BY_NONE}
    own = {"MISTUDIO_HOME": str(folder / "home"), "MISTUDIO_DEVICE_DIR": str(folder / "devices")}
    return kept | own | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def runner(environment: dict[str, str]) -> Run:
    """Runs one command to its end."""

    def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mistudio_cli", *arguments]
        options = {"env": environment, "capture_output": True, "text": True, "timeout": 90, **more}
        return subprocess.run(command, check=False, **options)

    return run


@pytest.fixture
def environment(home: Home, tmp_path: Path) -> dict[str, str]:
    """Of commands on this test's own home."""
    return environment_of(tmp_path)


@pytest.fixture
def mistudio(environment: dict[str, str]) -> Run:
    """Runs a command on this test's own home."""
    return runner(environment)


@pytest.fixture
def up(mistudio: Run) -> Iterator[dict[str, Any]]:
    """miStudio in the background on free ports; what it said when it was ready."""
    done = mistudio(*_UP)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield json.loads(done.stdout)
    finally:
        mistudio("down")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command on one running miStudio that a module's harmless tests share."""
    run = runner(environment_of(tmp_path_factory.mktemp("shared")))
    assert run(*_UP).returncode == 0
    try:
        yield run
    finally:
        run("down")
