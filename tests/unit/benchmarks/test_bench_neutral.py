"""The neutral file of a trained SAE: every convention means what it says, and figures are those of closed forms."""

import json

import numpy as np
import pytest
import torch

from benchmarks.neutral import Evaluator, NeutralSae, evaluate, read_neutral, with_l0
from benchmarks.peers.common import from_saelens, verify, write_neutral

D, F = 5, 7


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (F, D), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def rows(n=64, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32))


def saved(tmp_path, tensors, **header):
    write_neutral(tmp_path / "sae.safetensors", tensors, {"activation": "relu", "subtract_b_dec": False} | header)
    return read_neutral(tmp_path / "sae.safetensors")


def both(sae, x):
    codes = sae.encode(x)
    return codes, sae.decode(codes)


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_relu_is_the_formula(tmp_path):
    w, x = weights(), rows()
    codes, x_hat = both(saved(tmp_path, w), x)
    wanted = np.maximum(x.numpy() @ w["W_enc"].T + w["b_enc"], 0)
    assert_same((codes, x_hat), (torch.from_numpy(wanted), torch.from_numpy(wanted @ w["W_dec"] + w["b_dec"])))


def test_an_input_from_which_b_dec_is_subtracted(tmp_path):
    w, x = weights(), rows()
    plain = both(saved(tmp_path, w), x)
    subtracted = w | {"b_enc": w["b_enc"] + w["W_enc"] @ w["b_dec"]}
    assert_same(both(saved(tmp_path, subtracted, subtract_b_dec=True), x), plain)
    other_codes, _ = both(saved(tmp_path, w, subtract_b_dec=True), x)
    assert not torch.allclose(other_codes, plain[0], atol=0.1), "the header has to matter"


def test_a_normalised_input(tmp_path):
    w, x, scale = weights(), rows(), 2.5
    mean = np.arange(D, dtype=np.float32)
    codes, x_hat = both(saved(tmp_path, w), x)
    # The same map in units of (x - mean) * scale: its codes are `scale` times larger.
    units = {
        "W_enc": w["W_enc"],
        "b_enc": scale * (w["b_enc"] + w["W_enc"] @ mean),
        "W_dec": w["W_dec"],
        "b_dec": scale * (w["b_dec"] - mean),
        "input_mean": mean,
    }
    assert_same(both(saved(tmp_path, units, input_scale=scale), x), (scale * codes, x_hat))


def test_top_k_keeps_the_largest_after_relu(tmp_path):
    w, x = weights(), rows()
    codes = saved(tmp_path, w, activation="topk", k=2).encode(x)
    pre = np.maximum(x.numpy() @ w["W_enc"].T + w["b_enc"], 0)
    for row, wanted in zip(codes.numpy(), pre, strict=True):
        assert sorted(row[row > 0]) == pytest.approx(sorted(v for v in np.sort(wanted)[-2:] if v > 0), rel=1e-4)


def test_a_threshold_is_strict_and_keeps_the_value(tmp_path):
    w = weights() | {"b_enc": np.zeros(F, np.float32), "W_enc": np.eye(F, D, dtype=np.float32)}
    sae = saved(tmp_path, w | {"threshold": np.full(F, 0.5, np.float32)}, activation="threshold")
    codes = sae.encode(torch.tensor([[0.5, 0.75, -1.0, 2.0, 0.25]]))
    assert codes.tolist() == [[0.0, 0.75, 0.0, 2.0, 0.0, 0.0, 0.0]]


def test_a_gate_decides_and_the_magnitude_is_its_own(tmp_path):
    w, x = weights(), rows()
    extra = {"b_mag": np.full(F, 0.3, np.float32), "r_mag": np.full(F, 0.2, np.float32)}
    codes = saved(tmp_path, w | extra, activation="gated").encode(x)
    product = x.numpy() @ w["W_enc"].T
    wanted = np.maximum(np.exp(0.2) * product + 0.3, 0) * (product + w["b_enc"] > 0)
    np.testing.assert_allclose(codes, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "header", "words"),
    [
        ({}, {"activation": "softmax"}, "softmax"),
        ({"W_dec": np.zeros((D, F), np.float32)}, {}, "W_dec"),
        ({}, {"activation": "threshold"}, "threshold"),
        ({"input_mean": np.zeros(F, np.float32)}, {}, "input_mean"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path, change, header, words):
    with pytest.raises(ValueError, match=words):
        saved(tmp_path, weights() | change, **header)


def test_a_header_without_the_convention_is_refused(tmp_path):
    write_neutral(tmp_path / "sae.safetensors", weights(), {"activation": "relu"})
    with pytest.raises(ValueError, match="b_dec"):
        read_neutral(tmp_path / "sae.safetensors")


def test_a_file_that_does_not_reconstruct_as_its_library_does_is_refused(tmp_path):
    x = rows()
    own = both(saved(tmp_path, weights()), x)[1]
    verify(tmp_path / "sae.safetensors", x, own)
    with pytest.raises(ValueError, match="relative error"):
        verify(tmp_path / "sae.safetensors", x, own + 0.01 * x)


def saelens_folder(tmp_path, **config):
    from safetensors.numpy import save_file

    w = weights()
    save_file({**w, "W_enc": np.ascontiguousarray(w["W_enc"].T)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 3, "d_in": D, "d_sae": F} | config))
    return w


def test_saelens_scores_by_decoder_norm_are_folded(tmp_path):
    w, x = saelens_folder(tmp_path, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=True), rows()
    tensors, header = from_saelens(tmp_path)
    x_hat = both(saved(tmp_path, tensors, **header), x)[1].numpy()
    norm = np.linalg.norm(w["W_dec"], axis=1)
    pre = ((x.numpy() - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]) * norm
    kept = np.where(pre >= np.sort(pre, axis=1)[:, -3:-2], np.maximum(pre, 0), 0)
    np.testing.assert_allclose(x_hat, (kept / norm) @ w["W_dec"] + w["b_dec"], rtol=1e-3, atol=1e-4)


def test_saelens_weights_that_want_another_input_are_refused(tmp_path):
    saelens_folder(tmp_path, normalize_activations="layer_norm")
    with pytest.raises(ValueError, match="layer_norm"):
        from_saelens(tmp_path)


def axes_sae(features, k=None):
    """Features +e1, +e2, ... of the axes; one more that can never fire."""
    W = torch.cat([torch.eye(features), torch.zeros(1, features)])
    tensors = {"W_enc": W, "W_dec": W, "b_dec": torch.zeros(features), "input_mean": torch.zeros(features)}
    tensors["b_enc"] = torch.cat([torch.zeros(features), -torch.ones(1)])
    header = {"activation": "topk" if k else "relu", "k": k, "subtract_b_dec": False, "input_scale": 1.0}
    return NeutralSae(tensors=tensors, header=header)


def test_figures_of_a_closed_form():
    # Rows (a, b) with a > b > 0; the one code kept is a, so the error is b^2.
    x = torch.tensor([[2.0, 1.0], [4.0, 1.0], [6.0, 1.0], [8.0, 5.0]])
    evaluator = Evaluator(axes_sae(2, k=1))
    evaluator.add(x[:1])
    evaluator.add(x[1:])
    found = evaluator.result()
    # Variances about the means 5 and 2: 9 + 1 + 1 + 9 and 1 + 1 + 1 + 9.
    assert found.fvu == pytest.approx((1 + 1 + 1 + 25) / 32)
    assert (found.l0, found.rows) == (1.0, 4) and found.dead == pytest.approx(2 / 3)


def test_a_perfect_sae_and_one_that_says_the_mean(tmp_path):
    x = rows(500).abs() + 1000.0  # far from zero: the mean is what counts
    np.save(tmp_path / "x.npy", torch.cat([torch.zeros(20, D), x]).numpy())
    perfect = evaluate(axes_sae(D), tmp_path / "x.npy", 500)
    assert perfect.fvu == pytest.approx(0, abs=1e-8) and perfect.l0 == D and perfect.dead == pytest.approx(1 / (D + 1))
    silent = axes_sae(D)
    silent.tensors.update(W_enc=torch.zeros(D + 1, D), b_enc=-torch.ones(D + 1), b_dec=x.double().mean(0).float())
    assert evaluate(silent, tmp_path / "x.npy", 500).fvu == pytest.approx(1, rel=1e-4)


def test_a_threshold_is_moved_to_an_l0(tmp_path):
    np.save(tmp_path / "x.npy", rows(3000).numpy())
    w = weights() | {"threshold": np.zeros(F, np.float32)}
    sae = saved(tmp_path, w, activation="threshold")
    before = evaluate(sae, tmp_path / "x.npy", 1000).l0
    moved = evaluate(with_l0(sae, tmp_path / "x.npy", 1000, 1.5), tmp_path / "x.npy", 1000).l0
    assert before > 2 and moved == pytest.approx(1.5, rel=0.1)
    with pytest.raises(ValueError, match="threshold"):
        with_l0(saved(tmp_path, weights()), tmp_path / "x.npy", 1000, 1.5)
