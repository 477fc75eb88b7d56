"""Where converters of the field go wrong and golden cases do not show it: edges of activation functions, names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio_core.errors import InvalidInput
from mistudio_torch.formats import dictionary_learning, read_sae
from mistudio_torch.formats.saelens import save_sae
from tests.support import saefiles as files
from tests.support.saefiles import D, F

WEIGHTS = "sae_weights.safetensors"


def plain(folder: Path, architecture: str, **weights: torch.Tensor) -> None:
    """An SAE whose first d features read the input's values as they are, nothing subtracted, no biases."""
    files.saelens(folder, architecture, apply_b_dec_to_input=False)
    eye = torch.zeros(D, F)
    eye[:, :D] = torch.eye(D)
    zero = {"W_enc": eye, "W_dec": eye.t().contiguous(), "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    kept = {n: t for n, t in load_file(folder / WEIGHTS).items() if n not in zero}
    save_file({**kept, **zero, **weights}, folder / WEIGHTS)


def codes(folder: Path, values: dict[int, float]) -> dict[int, float]:
    x = torch.zeros(1, D)
    for place, value in values.items():
        x[0, place] = value
    found = read_sae(folder).sae.encode(x)
    return dict(zip(found.feature_N.tolist(), found.value_N.tolist(), strict=True))


def test_jumprelu_fires_strictly_above_its_threshold_and_never_below_zero(tmp_path: Path):
    threshold = torch.full((F,), 0.5)
    threshold[3] = -1.0
    plain(tmp_path, "jumprelu", threshold=threshold)
    assert codes(tmp_path, {0: 0.5, 1: 0.75, 2: 0.25, 3: -0.5, 4: -2.0}) == {1: 0.75}
    assert codes(tmp_path, {3: 0.25}) == {3: 0.25}


def test_topk_keeps_no_negative_value_even_where_fewer_than_k_are_positive(tmp_path: Path):
    plain(tmp_path, "topk")
    assert codes(tmp_path, {0: 2.0, 1: 1.0, **dict.fromkeys(range(2, D), -1.0)}) == {0: 2.0, 1: 1.0}


def test_a_logarithm_of_thresholds_is_not_taken_for_thresholds(tmp_path: Path):
    files.saelens(tmp_path, "jumprelu")
    weights = load_file(tmp_path / WEIGHTS)
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(InvalidInput, match="lacks threshold and it has log_threshold beside"):
        read_sae(tmp_path)


def test_a_threshold_for_all_features_is_not_one_of_each_and_the_other_way(tmp_path: Path):
    files.dictionary_learning(tmp_path, "BatchTopKSAE")
    state = load_file(tmp_path / "ae.safetensors")
    folder = files.Unpacked({"ae.pt"}, tmp_path.joinpath)
    found = dictionary_learning.read(folder)
    assert torch.equal(found.sae.state_dict()["threshold_F"], torch.full((F,), 0.7))
    save_file({**state, "threshold": torch.ones(F)}, tmp_path / "ae.safetensors")
    with pytest.raises(InvalidInput, match=r"threshold has shape \[64\], expected \[\]"):
        dictionary_learning.read(folder)


def test_square_files_without_sizes_of_their_own_are_read_with_a_warning(tmp_path: Path):
    w = files.draw(1, W_enc=(D, D), W_dec=(D, D), b_enc=(D,), b_dec=(D,), threshold=(D,))
    np.savez(tmp_path / "params.npz", **w)
    assert any("square" in note for note in read_sae(tmp_path).notes)


def test_the_subtraction_of_b_dec_goes_by_family_and_not_by_name(tmp_path: Path):
    shifted = {}
    for name in ("BatchTopKSAE", "JumpReluAutoEncoder"):
        folder = tmp_path / name
        folder.mkdir()
        files.dictionary_learning(folder, name)
        state = load_file(folder / "ae.safetensors")
        sae = dictionary_learning.read(files.Unpacked({"ae.pt"}, folder.joinpath)).sae
        raw = state["encoder.bias" if "encoder.bias" in state else "b_enc"]
        shifted[name] = float((sae.b_enc_F - raw).abs().max())
    assert shifted["JumpReluAutoEncoder"] == 0 and shifted["BatchTopKSAE"] > 0.1


def test_a_hook_at_all_heads_and_the_bos_token_are_said(tmp_path: Path):
    about = {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.attn.hook_z", "prepend_bos": False}
    files.saelens(tmp_path, "standard", reshape_activations="hook_z", metadata=about)
    imported = read_sae(tmp_path)
    assert any("all attention heads" in note for note in imported.notes)
    assert imported.metadata.hook_name == "blocks.1.attn.hook_z" and imported.metadata.prepend_bos is False


def test_what_we_write_is_of_the_newer_form(tmp_path: Path):
    files.saelens(tmp_path, "topk")
    sae = read_sae(tmp_path).sae
    save_sae(sae, tmp_path.joinpath, metadata={"hook_name": "blocks.1.hook_resid_post"})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["metadata"]["sae_lens_version"].startswith("6.") and cfg["apply_b_dec_to_input"] is False
    assert cfg["k"] == sae.shape.k and not (tmp_path / "sparsity.safetensors").exists()
