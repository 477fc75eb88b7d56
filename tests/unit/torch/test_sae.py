"""SAEs: fast paths against their slow twins, folding, training that works, files that come back."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from mistudio_core.errors import Corrupt, InvalidInput, Unsupported
from mistudio_torch.sae import ARCHITECTURES, SaeShape, make_sae
from mistudio_torch.sae.base import Normalisation
from mistudio_torch.sae.saelens import load_sae, save_sae
from mistudio_torch.sae.sparse_ops import topk_fast, topk_slow

B, D, F, K = 64, 12, 40, 5


def shape(architecture="topk"):
    return SaeShape(architecture=architecture, d_in=D, d_sae=F, k=K, sparsity_coeff=0.01)


def trained(architecture, steps=60):
    torch.manual_seed(0)
    directions = torch.randn(20, D)
    x = (torch.rand(512, 20) * (torch.rand(512, 20) < 0.15)) @ directions
    sae = make_sae(shape(architecture))
    sae.initialise(1)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    dead = torch.zeros(F, dtype=torch.bool)
    fvus = []
    for _ in range(steps):
        loss = sae.loss(x, dead)
        loss.total.backward()
        sae.before_step()
        optimizer.step()
        optimizer.zero_grad()
        sae.after_step()
        fvus.append(float(loss.fvu))
    return sae, x, fvus


def weights(dtype):
    torch.manual_seed(3)
    make = lambda *s: torch.randn(*s, dtype=dtype, requires_grad=True)  # noqa: E731
    return torch.randn(B, D, dtype=dtype), make(F, D), make(F), make(F, D)


def test_fast_topk_has_the_values_and_gradients_of_the_slow_twin():
    x, W_enc, b_enc, W_dec = weights(torch.float32)
    target = torch.randn(B, D)
    gradients = []
    for path in (lambda: topk_slow(x, W_enc, b_enc, W_dec, K), lambda: topk_fast(x, W_enc, b_enc, W_dec, K)[0]):
        x_hat = path()
        gradients.append((x_hat, *torch.autograd.grad((x_hat - target).square().sum(), (W_enc, b_enc, W_dec))))
    for slow, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_negative_pre_activations_are_no_codes_and_get_no_gradient():
    x, W_enc, _, W_dec = weights(torch.float32)
    b_enc = torch.full((F,), -1e4, requires_grad=True)
    x_hat, value, _ = topk_fast(x, W_enc, b_enc, W_dec, K)
    x_hat.sum().backward()
    assert not value.any() and not x_hat.any() and not b_enc.grad.any() and not W_dec.grad.any()


def test_auxiliary_loss_reaches_dead_features_only():
    sae = make_sae(shape())
    sae.initialise(0)
    x = torch.randn(B, D)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[[3, 7]] = True
    with torch.no_grad():
        sae.b_enc_F[dead] = -1e4
    without, with_aux = sae.loss(x, torch.zeros_like(dead)), None
    (g0,) = torch.autograd.grad(without.total, sae.W_dec_FD)
    with torch.no_grad():
        sae.W_enc_FD[dead] *= 1e5  # reaches above the bias for some tokens, but the top k decide
        sae.b_enc_F[dead] = -1e6
    with_aux = sae.loss(x, dead)
    (g1,) = torch.autograd.grad(with_aux.total, sae.W_dec_FD)
    torch.testing.assert_close(g0[~dead], g1[~dead])
    assert not g0[dead].any() and not without.fired_F[dead].any()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_training_reconstructs(architecture):
    sae, x, fvus = trained(architecture)
    assert fvus[-1] < 0.3 * fvus[0] and fvus[-1] < 0.35
    codes = sae.encode(x)
    assert (codes.value_N > 0).all()
    error = (x - sae.decode(codes, len(x))).square().sum() / (x - x.mean(0)).square().sum()
    assert float(error) == pytest.approx(float(sae.loss(x, torch.zeros(F, dtype=torch.bool)).fvu), rel=1e-4)
    if architecture == "topk":
        torch.testing.assert_close(sae.W_dec_FD.norm(dim=1), torch.ones(F))
        assert torch.bincount(codes.token_N, minlength=len(x)).max() <= K


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_training_is_the_same_bit_for_bit(architecture):
    one, other = (trained(architecture, steps=20)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_reads_raw_activations(architecture):
    sae, x, _ = trained(architecture)
    raw = x * 3 + torch.arange(D)
    norm = Normalisation.of(raw)
    normal = norm.apply(raw)
    assert normal.mean(0).abs().max() < 1e-5 and normal.square().sum(1).mean() == pytest.approx(D, rel=1e-4)
    folded = sae.folded(norm.mean_D, norm.scale)
    inner = sae.decode(sae.encode(normal), len(raw)) / norm.scale + norm.mean_D
    torch.testing.assert_close(folded.decode(folded.encode(raw), len(raw)), inner, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        folded.encode(raw).value_N * norm.scale, sae.encode(normal).value_N, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_saelens_files(tmp_path, architecture):
    sae, _, _ = trained(architecture, steps=5)
    digests = []
    for name in "ab":
        (tmp_path / name).mkdir()
        save_sae(
            sae, (tmp_path / name).joinpath, metadata={"model_name": "m"}, firing_frequency_F=torch.full((F,), 0.1)
        )
        digests.append([hashlib.sha256(p.read_bytes()).digest() for p in sorted((tmp_path / name).iterdir())])
    assert digests[0] == digests[1] and len(digests[0]) == 3
    tensors = load_file(tmp_path / "a" / "sae_weights.safetensors")
    assert {k: tuple(t.shape) for k, t in tensors.items()} == {
        "W_enc": (D, F),
        "b_enc": (F,),
        "W_dec": (F, D),
        "b_dec": (D,),
    }
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    assert config["architecture"] == architecture and config["metadata"]["model_name"] == "m"
    back, _ = load_sae((tmp_path / "a").joinpath)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in sae.state_dict().items())
    sparsity = load_file(tmp_path / "a" / "sparsity.safetensors")["sparsity"]
    torch.testing.assert_close(sparsity, torch.full((F,), -1.0))


def test_saelens_input_bias_is_folded_and_the_rest_refused(tmp_path):
    sae, x, _ = trained("topk", steps=5)
    save_sae(sae, tmp_path.joinpath, metadata={}, firing_frequency_F=torch.zeros(F))
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": True}))
    back, _ = load_sae(tmp_path.joinpath)
    torch.testing.assert_close(back.pre_activations(x), sae.pre_activations(x - sae.b_dec_D), rtol=1e-4, atol=1e-4)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "layer_norm"}))
    with pytest.raises(Unsupported, match="layer_norm"):
        load_sae(tmp_path.joinpath)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"architecture": "gated"}))
    with pytest.raises(Unsupported, match="gated"):
        load_sae(tmp_path.joinpath)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"d_sae": 7}))
    with pytest.raises(Corrupt):
        load_sae(tmp_path.joinpath)


def test_shapes_are_checked():
    with pytest.raises(InvalidInput, match="hidden_dim"):
        SaeShape(architecture="topk", d_in=4, d_sae=3, k=4)
    with pytest.raises(Unsupported):
        make_sae(SaeShape(architecture="gated", d_in=4, d_sae=4))
