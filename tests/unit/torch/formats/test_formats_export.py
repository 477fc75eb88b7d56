"""Every architecture of ours into every layout that holds it and back; the rest is refused with what and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mistudio_core.errors import Conflict, Corrupt, InvalidInput, Unsupported
from mistudio_torch.formats import FORMATS, SaeMetadata, dictionary_learning, read_sae, saelens, store_sae, write_sae
from mistudio_torch.formats.check import compared
from mistudio_torch.formats.files import SaeFolder
from mistudio_torch.sae import ARCHITECTURES, Sae, SaeShape, make_sae
from tests.support import saefiles as files
from tests.support.saefiles import OUT, D, F, K

ABOUT = SaeMetadata(
    model_name="gpt2", hook_name="blocks.3.hook_resid_post", layer=3, context_size=64, dataset="text", prepend_bos=True
)
HOLDS = {
    "saelens": set(ARCHITECTURES),
    "sparsify": {"topk"},
    "dictionary_learning": set(ARCHITECTURES),
    "gemma_scope": {"jumprelu", "batchtopk", "matryoshka"},
    "gemma_scope_2": {"jumprelu", "batchtopk", "matryoshka"},
}
IN_PROCESS = {"saelens", "sparsify", "gemma_scope", "gemma_scope_2"}


def some(architecture: str, **shape: int) -> Sae:
    """An SAE with weights of usual sizes."""
    torch.manual_seed(1)
    sae = make_sae(SaeShape(architecture=architecture, d_in=D, d_sae=F, k=K, **shape))
    with torch.no_grad():
        for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
            value.copy_(torch.randn(value.shape) * 0.4)
            if "threshold" in name:
                value.abs_().add_(0.2)
    return sae


@pytest.mark.parametrize("form", sorted(IN_PROCESS))
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_a_layout_holds_comes_back_and_the_rest_is_refused(form: str, architecture: str, tmp_path: Path):
    sae, folder = some(architecture), tmp_path / "layers.3"
    if architecture not in HOLDS[form]:
        with pytest.raises(Unsupported, match=f"{sae.for_inference().shape.architecture} SAE in the {form} layout"):
            write_sae(sae, folder, form, ABOUT)
        assert list(tmp_path.iterdir()) == []
        return
    assert write_sae(sae, folder, form, ABOUT) == sorted(folder.iterdir())
    back = read_sae(folder)
    x = torch.from_numpy(files.rows())
    y, codes = back.sae.reconstruct(x)
    wanted_y, wanted = sae.for_inference().reconstruct(x)
    torch.testing.assert_close(codes.value_N, wanted.value_N, rtol=1e-5, atol=1e-5)
    assert torch.equal(codes.feature_N, wanted.feature_N) and len(codes.value_N) > len(x)
    torch.testing.assert_close(y, wanted_y, rtol=1e-4, atol=1e-4)
    assert form == "gemma_scope" or back.metadata.hook_name == ABOUT.hook_name


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_has_a_class_of_dictionary_learning(architecture: str, tmp_path: Path):
    sae = some(architecture)
    FORMATS["dictionary_learning"].write(sae, tmp_path, ABOUT)
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    save_file(state, tmp_path / "ae.safetensors")
    found = dictionary_learning.read(files.Unpacked({"ae.pt"}, tmp_path.joinpath))
    near = compared(sae.for_inference(), found.origin, torch.from_numpy(files.rows()), architecture)
    assert near.codes_error < 1e-6 and near.l0 > 1
    assert found.metadata.model_name == "gpt2" and found.metadata.hook_name == ABOUT.hook_name


def test_an_input_bias_comes_back_out_of_the_encoder(tmp_path: Path):
    sae = some("gated")
    write_sae(sae, tmp_path / "out", "dictionary_learning", ABOUT)
    state = torch.load(tmp_path / "out/ae.pt", weights_only=True)
    torch.testing.assert_close(state["gate_bias"], (sae.b_enc_F + sae.W_enc_FD @ sae.b_dec_D).detach())


def test_transcoders_go_where_there_are_transcoders(tmp_path: Path):
    about = SaeMetadata(hook_name="blocks.3.hook_mlp_in", hook_name_out="blocks.3.hook_mlp_out")
    kinds = {"jumprelu": {"saelens", "gemma_scope_2"}, "standard": {"saelens"}, "topk": set(), "gated": set()}
    for architecture, holds in kinds.items():
        sae = some(architecture, d_out=OUT)
        for form in FORMATS:
            folder = tmp_path / architecture / form
            if form not in holds:
                with pytest.raises(Unsupported, match=r"transcoder|SAE in the"):
                    write_sae(sae, folder, form, about)
                continue
            write_sae(sae, folder, form, about)
            back = read_sae(folder)
            assert back.sae.shape.d_out == OUT and back.metadata.hook_name_out == about.hook_name_out
    write_sae(some("topk", skip=True), tmp_path / "layers.3.mlp", "sparsify", about)
    assert read_sae(tmp_path / "layers.3.mlp").kind == "topk skip transcoder"


def test_our_own_store_holds_what_saelens_does_not(tmp_path: Path):
    source = tmp_path / "layers.1.mlp"
    source.mkdir()
    formula = files.sparsify(source, transcode=True, skip_connection=True)
    imported = read_sae(source)
    store_sae(imported, tmp_path / "stored")
    assert json.loads((tmp_path / "stored/cfg.json").read_text())["architecture"] == "topk_skip_transcoder"
    back = read_sae(tmp_path / "stored")
    x = files.rows()
    np.testing.assert_allclose(back.sae.reconstruct(torch.from_numpy(x))[0], formula(x.astype(float))[1], atol=1e-4)
    assert back.metadata.hook_name_out == "blocks.1.hook_mlp_out"
    with pytest.raises(Unsupported, match="topk transcoder in the SAELens layout"):
        write_sae(imported.sae, tmp_path / "strict", "saelens", imported.metadata)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_store_is_the_same_bytes_for_the_same_weights(architecture: str, tmp_path: Path):
    sae, written = some(architecture), []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        saelens.save_sae(sae, folder.joinpath, metadata={"model_name": "m"}, firing_frequency_F=torch.full((F,), 0.1))
        written.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert written[0] == written[1] and len(written[0]) == 3
    back, cfg = saelens.load_sae((tmp_path / "a").joinpath)
    inner = sae.for_inference()
    assert all(torch.equal(back.state_dict()[name], value) for name, value in inner.state_dict().items())
    assert cfg["metadata"]["model_name"] == "m" and back.shape.architecture == inner.shape.architecture
    (tmp_path / "a/sae_weights.safetensors").write_bytes(b"gone")
    with pytest.raises(Corrupt, match="cannot be used"):
        saelens.load_sae((tmp_path / "a").joinpath)


def test_a_folder_that_is_taken_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="there already"):
        write_sae(some("topk"), tmp_path, "saelens", ABOUT)
    with pytest.raises(InvalidInput, match="format"):
        write_sae(some("topk"), tmp_path / "new", "gguf", ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_sae_that_does_not_compute_what_its_origin_does_is_refused(tmp_path: Path):
    files.saelens(tmp_path, "jumprelu")
    imported, x = read_sae(tmp_path), torch.from_numpy(files.rows())
    other = tmp_path / "other"
    other.mkdir()
    files.sparsify(other)
    origin = FORMATS["sparsify"].read(SaeFolder.at(other)).origin
    with pytest.raises(InvalidInput, match="does not compute what sparsify computes"):
        compared(imported.sae, origin, x, "sparsify")
