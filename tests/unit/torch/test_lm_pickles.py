"""Pickled models become safetensors in an isolated process; what is more than tensors never runs."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from mistudio_core.errors import Conflict, InvalidInput, LimitReached, NotFound
from mistudio_torch.lm import unpickle
from mistudio_torch.lm.load import load_lm
from mistudio_torch.lm.pickles import RECORD, Conversion, convert, convert_file, pickle_files
from mistudio_torch.lm.source import resolve
from tests.support import tinymodels


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def pickled(tmp_path):
    """A tiny model as it is published by many: pytorch_model.bin with a tied head."""
    folder = tinymodels.make(tmp_path / "published", "gpt2")
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_a_pickled_model_loads_after_conversion_with_the_same_weights(pickled, root):
    done = convert(Conversion(source=str(pickled), model_root=root))
    assert (done.name, done.files) == ("published", ("model.safetensors",))
    before = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    after = load_file(root / "published" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert done.tensors == len(after) and done.weight_bytes == sum(t.nbytes for t in after.values())
    record = json.loads((root / "published" / RECORD).read_text())
    assert record["files"]["model.safetensors"]["from"] == "pytorch_model.bin"
    assert load_lm("published", 1, model_root=root).facts.total_layers == 3
    with pytest.raises(Conflict, match="--name"):
        convert(Conversion(source=str(pickled), model_root=root))


def test_a_payload_never_runs_and_nothing_is_kept(pickled, root, tmp_path):
    trace = tmp_path / "it-ran"
    torch.save({"weight": torch.ones(2), "evil": Payload(f"touch {trace}")}, pickled / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="more than tensors") as refusal:
        convert(Conversion(source=str(pickled), model_root=root))
    assert refusal.value.reason == "MODEL_UNSAFE_FORMAT" and "system" in refusal.value.message
    assert not trace.exists() and list(root.iterdir()) == []


def test_a_file_that_takes_too_long_ends_with_its_process(pickled, root):
    root.mkdir()
    staged = root / "x" / "model"
    staged.mkdir(parents=True)
    with pytest.raises(LimitReached, match="--timeout"):
        convert_file(pickled / "pytorch_model.bin", staged / "o.safetensors", timeout_s=0.05, model="m")
    assert list((root / "x").iterdir()) == [staged]


@pytest.mark.parametrize(
    ("content", "named"),
    (
        ({"a": torch.ones(2), "epoch": 3}, "'epoch' is a int"),
        ([torch.ones(2)], "a list"),
        ({}, "a dict"),
        ({1: torch.ones(2)}, "entry '1'"),
        ({"a": torch.ones(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex"),
        ({"a": Payload("true")}, "system"),
    ),
)
def test_whatever_is_no_tensor_is_named(tmp_path, content, named):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(unpickle.NotTensors, match=named):
        unpickle.read_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("zipped", (True, False))
def test_views_and_shared_memory_become_tensors_of_their_own(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "view": base[1:], "turned": base.t(), "same": base, "half": base.half()}
    torch.save({"state_dict": state}, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "x.bin") == zipped
    tensors = unpickle.read_tensors(tmp_path / "x.bin")
    assert all(torch.equal(tensors[n], state[n]) for n in state)
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == len(state)
    assert all(t.is_contiguous() for t in tensors.values())


GUARDED = """
import sys; from pathlib import Path; from mistudio_torch.lm import unpickle
unpickle._leave_network()
unpickle._give_up(Path(sys.argv[1]), memory_bytes=1 << 31, cpu_seconds=20)
Path(sys.argv[1], "inside").write_text("fine")
import socket, subprocess, os
def tries(what):
    try: what(); print("done")
    except PermissionError: print("refused")
tries(lambda: socket.create_connection(("127.0.0.1", 9)))
tries(lambda: subprocess.run(["true"])); tries(lambda: os.system("true")); tries(lambda: os.fork())
tries(lambda: open(sys.argv[2], "w")); tries(lambda: os.remove(sys.argv[3]))
try: bytearray(1 << 32); print("done")
except MemoryError: print("refused")
"""


def test_the_isolated_process_has_no_network_no_programs_and_no_other_files(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.write_text("kept")
    arguments = [sys.executable, "-c", GUARDED, str(own), str(tmp_path / "new"), str(other)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 7, done.stderr
    assert other.exists() and not (tmp_path / "new").exists() and (own / "inside").exists()


def test_which_files_are_weights(tmp_path, models):
    def found(*names, index=None):
        folder = tmp_path / "f"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in (*names, "config.json"):
            (folder / name).write_bytes(b"")
        if index is not None:
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
        return pickle_files(resolve("f", model_root=tmp_path))

    assert found("pytorch_model.bin", "training_args.bin") == {"pytorch_model.bin": None}
    assert found("weights.pt", "optimizer.pt") == {"weights.pt": None}
    assert found("a.bin", "b.bin", index={"x": "a.bin", "y": "b.bin", "z": "a.bin"}) == {
        "a.bin": ["x", "z"],
        "b.bin": ["y"],
    }
    for names, index, error in (
        (("a.bin", "b.bin"), None, NotFound),
        ((), None, NotFound),
        (("a.bin",), {"x": "../b.bin"}, InvalidInput),
        (("a.bin", "model.safetensors"), None, InvalidInput),
    ):
        with pytest.raises(error):
            found(*names, index=index)


@pytest.mark.parametrize("name", ("../out", "/abs", ".", "package:x"))
def test_a_name_that_leads_elsewhere(pickled, root, name):
    with pytest.raises(InvalidInput, match="name"):
        convert(Conversion(source=str(pickled), model_root=root, name=name))


def test_shards_keep_their_order_and_an_index_names_them(pickled, root):
    state = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    names = sorted(state)
    halves = {"p-1.bin": names[::2], "p-2.bin": names[1::2]}
    for file, part in halves.items():
        buffer = io.BytesIO()
        torch.save({n: state[n].clone() for n in part}, buffer)
        (pickled / file).write_bytes(buffer.getvalue())
    (pickled / "pytorch_model.bin").unlink()
    weight_map = {n: f for f, part in halves.items() for n in part}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    done = convert(Conversion(source=str(pickled), model_root=root, name="mine/sharded"))
    assert done.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert load_lm("mine/sharded", 0, model_root=root).facts.parameters == sum(t.numel() for t in state.values())
