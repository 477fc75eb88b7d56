"""Fixtures that every kind of test shares: a home of its own, devices of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mistudio_core.home import Home

ROOT = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A fresh installation whose devices nobody else leases."""
    monkeypatch.setenv("MISTUDIO_DEVICE_DIR", str(tmp_path / "devices"))
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path / "home"))
    return Home.at(tmp_path / "home")
