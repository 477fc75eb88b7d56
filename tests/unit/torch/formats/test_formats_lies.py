"""Files that lie, are damaged or hold what our SAEs cannot: each a typed refusal, before weights are allocated."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_torch.formats import dictionary_learning, read_sae, tensors
from tests.support import saefiles as files
from tests.support.saefiles import D, F

WEIGHTS = "sae_weights.safetensors"


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def configured(folder: Path, **changes: Any) -> Path:
    """A topk SAE of SAELens with other settings; None takes one out."""
    files.saelens(folder, "topk")
    cfg = {**json.loads((folder / "cfg.json").read_text()), **changes}
    files.configure(folder, "cfg.json", **{key: value for key, value in cfg.items() if value is not None})
    return folder


def weighted(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The same with other tensors."""
    files.saelens(folder, "topk")
    weights = {**load_file(folder / WEIGHTS), **changes}
    save_file({name: t.contiguous() for name, t in weights.items() if t is not None}, folder / WEIGHTS)
    return folder


SETTINGS = [
    ({"k": -1}, "k: -1"),
    ({"k": 0}, "1 to 64"),
    ({"k": F + 1}, "k: 65"),
    ({"k": True}, "k: True"),
    ({"k": 2.5}, "k: 2.5"),
    ({"k": None}, "k: 'missing'"),
    ({"d_sae": 10**15}, "d_sae"),
    ({"d_sae": "64"}, "d_sae"),
    ({"d_sae": F + 1}, r"\[24, 64\], expected \[24, 65\]"),
    ({"d_in": F, "d_sae": D}, r"\[24, 64\], expected \[64, 24\] \(it may be transposed"),
    ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input"),
    ({"metadata": [1]}, "metadata"),
    ({"reshape_activations": "hook_z"}, "reshape_activations"),
]


@pytest.mark.parametrize(("changes", "shown"), SETTINGS, ids=str)
def test_a_config_that_lies(changes: dict[str, Any], shown: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match=shown):
        read_sae(configured(tmp_path, **changes))


UNSUPPORTED = [
    ({"normalize_activations": "layer_norm"}, "its own norm"),
    ({"normalize_activations": "constant_norm_rescale"}, "its own norm"),
    ({"normalize_activations": "covariance_whitening"}, "constant factor"),
    ({"normalize_activations": "expected_average_only_in"}, "norm_scaling_factor"),
    ({"architecture": "temporal"}, "temporal"),
    ({"architecture": "batchtopk"}, "save_inference_model"),
    ({"architecture": "standard", "activation_fn": "tanh-relu"}, "tanh-relu"),
]


@pytest.mark.parametrize(("changes", "shown"), UNSUPPORTED, ids=str)
def test_what_our_saes_cannot_hold(changes: dict[str, Any], shown: str, tmp_path: Path):
    with pytest.raises(Unsupported, match=shown):
        read_sae(configured(tmp_path, **changes))


TENSORS = [
    ({"W_dec": torch.zeros(D, F)}, r"W_dec has shape \[24, 64\], expected \[64, 24\] \(it may be transposed"),
    ({"b_enc": None}, "lacks b_enc"),
    ({"surprise": torch.zeros(3)}, "has surprise beside"),
    ({"b_enc": torch.full((F,), torch.nan)}, "b_enc holds NaN"),
    ({"b_dec": torch.full((D,), torch.inf)}, "b_dec holds NaN or infinity"),
    ({"b_dec": torch.zeros(D, dtype=torch.int32)}, "b_dec is I32"),
    ({"b_dec": torch.zeros(D, dtype=torch.float8_e4m3fn)}, "b_dec is F8_E4M3"),
    ({"scaling_factor": torch.full((F,), 2.0)}, "scaling_factor is not 1"),
]


@pytest.mark.parametrize(("changes", "shown"), TENSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_tensors_that_are_not_what_they_must_be(changes: dict[str, Any], shown: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match=shown):
        read_sae(weighted(tmp_path, **changes))


def header(path: Path, change: Any) -> None:
    """Rewrites the JSON header of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def entry(name: str, **values: Any) -> Any:
    return lambda found: {**found, name: {**found[name], **values}}


HEADERS = [
    (entry("b_dec", shape=[1 << 40]), "sides are 1 to"),
    (entry("b_dec", shape=[-24]), "sides are 1 to"),
    (entry("b_dec", shape=[12]), "lies about where the data of b_dec"),
    (entry("b_dec", shape="24"), "sides are 1 to"),
    (entry("b_dec", data_offsets=[0, 1 << 60]), "lies"),
    (entry("b_dec", dtype="F99"), "F99"),
    (lambda found: {"W_enc": found["W_enc"]}, "bytes of data and|lies"),
    (lambda found: [1], "no list of tensors"),
    (lambda found: {}, "0 tensors"),
]


@pytest.mark.parametrize(("change", "shown"), HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_lies(change: Any, shown: str, tmp_path: Path):
    files.saelens(tmp_path, "topk")
    header(tmp_path / WEIGHTS, change)
    with pytest.raises(InvalidInput, match=shown):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 7, (1 << 62).to_bytes(8, "little") + b"{}", b"\x05" + b"\x00" * 7 + b"{nope"]
)
def test_what_is_no_safetensors_file(data: bytes, tmp_path: Path):
    files.saelens(tmp_path, "topk")
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(InvalidInput, match=WEIGHTS):
        read_sae(tmp_path)


def test_a_cut_file(tmp_path: Path):
    files.saelens(tmp_path, "topk")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(InvalidInput, match="are there"):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"d_in": NaN}', "\ud800".encode("utf-8", "surrogatepass").hex(), "[" * 100_000]
)
def test_a_config_that_is_none(text: str, tmp_path: Path):
    files.saelens(tmp_path, "topk")
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"cfg\.json"):
        read_sae(tmp_path)


def test_a_link_that_leads_out_of_the_folder_and_one_of_the_hub_cache(tmp_path: Path):
    cache = tmp_path / "models--a--b"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0" / "sae"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    files.gemma_scope(blobs)
    (blobs / "params.npz").rename(blobs / "abc")
    (snapshot / "params.npz").symlink_to("../../../blobs/abc")
    assert read_sae(snapshot).format == "gemma_scope"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "params.npz").symlink_to(blobs / "abc")
    with pytest.raises(InvalidInput, match="link that leads out"):
        read_sae(outside)


def test_npz_files_that_lie(tmp_path: Path):
    files.gemma_scope(tmp_path)
    path = tmp_path / "params.npz"
    weights = dict(np.load(path))
    np.savez(path, **{**weights, "threshold": np.array([object()] * F)})
    with pytest.raises(InvalidInput, match="threshold is object"):
        read_sae(tmp_path)
    np.savez_compressed(path, **{**weights, "W_enc": np.zeros((1 << 12, 1 << 12), np.float32)})
    with pytest.raises(InvalidInput, match="unpacks to"):
        read_sae(tmp_path)
    np.savez(path, **weights)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:-4] if name == "b_enc.npy" else data)
    with pytest.raises(InvalidInput, match="header of b_enc does not fit"):
        read_sae(tmp_path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(InvalidInput, match=r"params\.npz"):
        read_sae(tmp_path)


def test_a_pt_file_that_holds_more_than_tensors_is_refused_and_never_runs(tmp_path: Path):
    files.dictionary_learning(tmp_path, "AutoEncoder")
    torch.save({"encoder.weight": Payload(tmp_path / "it-ran")}, tmp_path / "ae.pt")
    with pytest.raises(InvalidInput, match="more than tensors"):
        read_sae(tmp_path)
    assert not (tmp_path / "it-ran").exists()


def test_two_records_of_k_must_agree(tmp_path: Path):
    files.dictionary_learning(tmp_path, "BatchTopKSAE", k=3)
    with pytest.raises(InvalidInput, match=r"k is 6 and that of config\.json is 3"):
        dictionary_learning.read(files.Unpacked({"ae.pt"}, tmp_path.joinpath))


def test_settings_of_the_other_libraries_that_are_not_held(tmp_path: Path):
    for number, (settings, shown) in enumerate(
        [({"activation": "groupmax"}, "groupmax"), ({"signed": True}, "signed"), ({"activation": "relu"}, "activation")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.sparsify(folder, **settings)
        with pytest.raises(InvalidInput, match=shown):
            read_sae(folder)
    files.dictionary_learning(tmp_path, "AutoEncoder", dict_class="IdentityDict")
    with pytest.raises(Unsupported, match="IdentityDict"):
        read_sae(tmp_path)


def test_gemma_scope_files_that_do_not_fit_their_config(tmp_path: Path):
    files.gemma_scope_2(tmp_path, affine=True)
    files.configure(tmp_path, "config.json", architecture="jump_relu", affine_connection=False)
    with pytest.raises(InvalidInput, match="affine_connection"):
        read_sae(tmp_path)
    weights = load_file(tmp_path / "params.safetensors")
    del weights["affine_skip_connection"]
    save_file({**weights, "w_dec": torch.zeros(F, 3, D)}, tmp_path / "params.safetensors")
    with pytest.raises(Unsupported, match="cross-layer"):
        read_sae(tmp_path)


def test_a_folder_must_have_the_files_of_one_layout(tmp_path: Path):
    with pytest.raises(InvalidInput, match="No SAE is recognised"):
        read_sae(tmp_path)
    files.saelens(tmp_path, "topk")
    with pytest.raises(InvalidInput, match=r"sae\.safetensors is missing"):
        read_sae(tmp_path, form="sparsify")
    with pytest.raises(InvalidInput, match="auto, saelens"):
        read_sae(tmp_path, form="gguf")
    files.gemma_scope(tmp_path)
    with pytest.raises(InvalidInput, match="saelens or gemma_scope"):
        read_sae(tmp_path)
    assert read_sae(tmp_path / "cfg.json", form="saelens").kind == "topk"


def test_more_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files.saelens(tmp_path, "topk")
    monkeypatch.setattr(tensors, "available_bytes", lambda: 1000)
    with pytest.raises(LimitReached, match="more memory"):
        read_sae(tmp_path)
