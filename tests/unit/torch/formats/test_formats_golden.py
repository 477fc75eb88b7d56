"""Each layout and class, d != F, against its library's formula; and what the files say about themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio_torch.formats import dictionary_learning, read_sae
from mistudio_torch.formats.check import agreement
from mistudio_torch.sae import Sae
from tests.support import saefiles as files
from tests.support.saefiles import OUT, D, F, K

Make = Callable[[Path], files.Formula]
SAELENS = (
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
CASES: dict[str, Make] = {
    **{f"saelens {a}": lambda p, a=a: files.saelens(p, a) for a in SAELENS},
    **{
        f"saelens {a}, b_dec not subtracted": lambda p, a=a: files.saelens(p, a, apply_b_dec_to_input=False)
        for a in ("standard", "topk", "gated")
    },
    "saelens topk by decoder norm": lambda p: files.saelens(p, "topk", rescale_acts_by_decoder_norm=True),
    "saelens in bfloat16": lambda p: files.saelens(p, "jumprelu", torch.bfloat16),
    "saelens in float16": lambda p: files.saelens(p, "gated", torch.float16),
    "saelens in float64": lambda p: files.saelens(p, "topk", torch.float64),
    "sparsify": files.sparsify,
    "sparsify, width by expansion": lambda p: files.sparsify(p, num_latents=0, expansion_factor=3),
    "sparsify, decoder not normalised": lambda p: files.sparsify(p, normalize_decoder=False, multi_topk=True),
    "sparsify transcoder": lambda p: files.sparsify(p, transcode=True),
    "sparsify skip": lambda p: files.sparsify(p, skip_connection=True),
    "sparsify skip transcoder": lambda p: files.sparsify(p, transcode=True, skip_connection=True),
    "dictionary_learning": lambda p: files.dictionary_learning(p, "MatryoshkaBatchTopKSAE"),
    "gemma_scope": files.gemma_scope,
    "gemma_scope_2": files.gemma_scope_2,
    "gemma_scope_2 transcoder": lambda p: files.gemma_scope_2(p, transcoder=True),
    "gemma_scope_2 affine": lambda p: files.gemma_scope_2(p, transcoder=True, affine=True),
}


def computed(sae: Sae, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, codes = sae.reconstruct(torch.from_numpy(x))
    dense = np.zeros((len(x), sae.shape.d_sae))
    dense[codes.token_N.numpy(), codes.feature_N.numpy()] = codes.value_N.numpy()
    return dense, y.numpy()


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstructions_are_those_of_the_library(name: str, tmp_path: Path):
    formula, x = CASES[name](tmp_path), files.rows()
    imported = read_sae(tmp_path)
    codes, y = computed(imported.sae, x)
    expected_codes, expected_y = formula(x.astype(np.float64))
    assert (expected_codes > 0).sum(1).mean() > 2, "the case shows nothing where nothing fires"
    np.testing.assert_allclose(codes, expected_codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-4)
    assert imported.agreement.codes_error < 1e-6 and imported.agreement.l0 > 1
    assert imported.format == name.split(maxsplit=1)[0].rstrip(",")


@pytest.mark.parametrize("threshold", [0.7, -1.0])
@pytest.mark.parametrize("name", files.DICTIONARIES)
def test_every_class_of_dictionary_learning(name: str, threshold: float, tmp_path: Path):
    formula, x = files.dictionary_learning(tmp_path, name, threshold), files.rows()
    found = dictionary_learning.read(files.Unpacked({"ae.pt"}, tmp_path.joinpath))
    codes, y = computed(found.sae, x)
    expected_codes, expected_y = formula(x.astype(np.float64))
    assert (expected_codes > 0).sum(1).mean() > 2
    np.testing.assert_allclose(codes, expected_codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-4)
    assert agreement(found).codes_error < 1e-6 and found.kind == name
    assert any("never measured" in note for note in found.notes) == (threshold < 0 and "Batch" in name)
    assert (found.metadata.hook_name, found.metadata.context_size) == ("blocks.5.hook_resid_post", 128)


def test_an_older_flat_saelens_config(tmp_path: Path):
    formula = files.saelens(tmp_path, "topk")
    old = {
        "d_in": D,
        "d_sae": F,
        "hook_point": "blocks.4.hook_mlp_out",
        "hook_point_layer": 4,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "model_name": "gpt2-small",
        "normalize_activations": False,
        "context_size": 128,
        "dataset_path": "some/text",
        "dtype": "torch.float32",
    }
    files.configure(tmp_path, "cfg.json", **old)
    imported = read_sae(tmp_path)
    codes, _ = computed(imported.sae, files.rows())
    np.testing.assert_allclose(codes, formula(files.rows().astype(np.float64))[0], rtol=1e-4, atol=1e-5)
    assert imported.kind == "standard" and imported.sae.shape.architecture == "topk" and imported.sae.shape.k == K
    about = imported.metadata
    assert (about.model_name, about.hook_name, about.layer) == ("gpt2-small", "blocks.4.hook_mlp_out", 4)
    assert (about.context_size, about.dataset) == (128, "some/text")


def test_constants_of_training_are_folded(tmp_path: Path):
    formula, x = files.saelens(tmp_path, "standard", normalize_activations="expected_average_only_in"), files.rows()
    files.configure(tmp_path, "activation_scaler.json", scaling_factor=0.25)
    codes, y = computed(read_sae(tmp_path).sae, x)
    expected_codes, expected_y = formula(x * 0.25)
    np.testing.assert_allclose(codes, expected_codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, expected_y / 0.25, rtol=1e-4, atol=1e-4)


def test_a_factor_of_fine_tuning_is_folded_where_the_config_says_so(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    formula, x = files.saelens(tmp_path, "standard", finetuning_scaling_factor=True), files.rows()
    weights = load_file(tmp_path / "sae_weights.safetensors")
    factor = np.linspace(0.5, 2, F).astype(np.float32)
    save_file({**weights, "scaling_factor": torch.from_numpy(factor)}, tmp_path / "sae_weights.safetensors")
    codes, y = computed(read_sae(tmp_path).sae, x)
    expected_codes, _ = formula(x.astype(np.float64))
    np.testing.assert_allclose(codes, expected_codes, rtol=1e-4, atol=1e-5)
    expected = (expected_codes * factor) @ weights["W_dec"].numpy() + weights["b_dec"].numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_where_an_sae_belongs_is_read_from_files_and_folders(tmp_path: Path):
    named = tmp_path / "layers.10"
    named.mkdir()
    files.sparsify(named)
    files.configure(tmp_path, "config.json", model="EleutherAI/pythia-160m", dataset="some/set", ctx_len=2048)
    about = read_sae(named).metadata
    assert (about.model_name, about.hook_name, about.layer) == (
        "EleutherAI/pythia-160m",
        "blocks.10.hook_resid_post",
        10,
    )
    assert (about.dataset, about.context_size) == ("some/set", 2048)
    gemma = tmp_path / "gemma-scope-2b-pt-mlp" / "layer_7" / "width_16k" / "average_l0_32"
    gemma.mkdir(parents=True)
    files.gemma_scope(gemma)
    about = read_sae(gemma).metadata
    assert (about.model_name, about.hook_name, about.layer) == ("google/gemma-2-2b", "blocks.7.hook_mlp_out", 7)
    other = tmp_path / "transcoder"
    other.mkdir()
    files.gemma_scope_2(other, transcoder=True)
    about = read_sae(other).metadata
    assert (about.hook_name, about.hook_name_out) == ("blocks.9.hook_mlp_in", "blocks.9.hook_mlp_out")
    assert read_sae(other).sae.shape.d_out == OUT
    about = read_sae(other, model_name="mine", hook_name="blocks.1.hook_resid_post").metadata
    assert (about.model_name, about.hook_name, about.layer) == ("mine", "blocks.1.hook_resid_post", 1)
