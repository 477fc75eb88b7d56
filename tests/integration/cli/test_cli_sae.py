"""`mistudio sae inspect|import|export`: through the command, with the process that reads the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mistudio_cli.__main__ import run_command
from mistudio_core.home import Home
from tests.support import saefiles as files


def run(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> tuple[int, dict]:
    code = run_command(["sae", *arguments, "--home", str(home.root), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_into_our_home_and_out_again(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "source"
    source.mkdir()
    files.gemma_scope_2(source)
    given = ["import", str(source), "--name", "mine", "--model", "my-gemma"]
    assert run_command(["sae", *given, "--home", str(home.root)]) == 0
    shown = capsys.readouterr().out
    assert "24 -> 64 -> 24" in shown and "blocks.9.hook_resid_post" in shown and "decoder norms" in shown
    assert {path.name for path in (home.saes / "mine").iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    code, body = run(capsys, home, "export", "mine", str(tmp_path / "out"), "--format", "gemma_scope_2")
    assert code == 0 and body["model_name"] == "my-gemma"
    theirs, ours = (load_file(folder / "params.safetensors") for folder in (source, tmp_path / "out"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_refusals_say_what_and_why(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files.saelens(tmp_path, "standard", normalize_activations="layer_norm")
    code, body = run(capsys, home, "inspect", str(tmp_path))
    assert code == 1 and body["importable"] is False and body["reason"] == "UNSUPPORTED"
    assert body["tensors"]["W_enc"] == ["F32", [24, 64]] and "its own norm" in body["problem"]
    files.saelens(tmp_path, "standard")
    np.save(tmp_path / "x.npy", files.rows())
    given = ("--activations", str(tmp_path / "x.npy"))
    code, body = run(capsys, home, "import", str(tmp_path), "--name", "mine", *given)
    assert code == 1 and "another layer or hook" in body["error"]["detail"]
    assert not home.saes.exists() or list(home.saes.iterdir()) == []


@pytest.mark.parametrize("name", ["../mine", "", ".mine", "a/b"])
def test_a_name_is_no_path(name: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, body = run(capsys, home, "import", str(tmp_path), "--name", name)
    assert code == 1 and body["error"]["metadata"]["field"] == "name"


def test_nothing_there(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, body = run(capsys, home, "inspect", "nowhere")
    assert code == 1 and "no imported SAE" in body["error"]["detail"]
