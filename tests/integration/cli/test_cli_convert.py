"""`mistudio models convert`: a pickled model under the model root as safetensors, or a typed refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mistudio_cli.__main__ import run_command
from mistudio_core.home import Home
from mistudio_torch.lm.source import inspect_model
from tests.support import fakehub, tinymodels


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    folder = tinymodels.make(tmp_path / "pickled", "bert")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def run(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> tuple[int, dict]:
    code = run_command(["models", "convert", *arguments, "--home", str(home.root), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_hub_repository_of_pickles_can_be_used_by_its_own_name_afterwards(
    pickled: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fakehub.serve({"a/pickled": pickled}, gated={"a/pickled": "hf_secret"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, body = run(capsys, home, "a/pickled")
    assert code == 0 and body["converted"]["model_name"] == "a/pickled"
    assert inspect_model("a/pickled", model_root=home.models).total_layers == 3
    assert (home.models / "a/pickled/tokenizer.json").exists() and hub.tokens == {"hf_secret"}


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_never_runs(
    pickled: Path, home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    torch.save({"weight": Payload(tmp_path / "it-ran")}, pickled / "pytorch_model.bin")
    code, body = run(capsys, home, str(pickled), "--name", "mine")
    assert code == 1 and body["error"]["reason"] == "MODEL_UNSAFE_FORMAT"
    assert "more than tensors" in body["error"]["detail"] and not (tmp_path / "it-ran").exists()
    assert list(home.models.iterdir()) == []


def test_a_source_that_is_not_there(home: Home, capsys: pytest.CaptureFixture[str]):
    code, body = run(capsys, home, "../nowhere")
    assert code == 1 and body["error"]["reason"] == "MODEL_NOT_FOUND"
