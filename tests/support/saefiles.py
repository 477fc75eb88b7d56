"""SAE files as the libraries of the field write them, each with its formula: d != F, so that nothing can be transposed.

Formulas are plain numpy in float64, written from the libraries' sources and apart from the readers'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mistudio_torch.formats.files import SaeFolder
from mistudio_torch.formats.tensors import StoredTensors, open_safetensors


class Unpacked(SaeFolder):
    """A folder whose ae.pt was read already: a process for each would take seconds."""

    def tensors(self, name: str) -> StoredTensors:
        return open_safetensors(self.path(name.replace(".pt", ".safetensors")))


D, F, OUT, K = 24, 64, 20, 6
Formula = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""x -> (codes, y)."""


def draw(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Weights of usual sizes: biases are far from zero, thresholds positive, rows of the decoder of many norms."""
    rng = np.random.default_rng(seed)
    found = {name: rng.standard_normal(shape) * 0.4 for name, shape in shapes.items()}
    found = {name: np.abs(value) + 0.1 if "threshold" in name else value for name, value in found.items()}
    return {name: value.astype(np.float32) for name, value in found.items()}


def rows(seed: int = 7, count: int = 50) -> np.ndarray:
    """Inputs, float32."""
    return np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)


def relu(pre: np.ndarray) -> np.ndarray:
    return np.maximum(pre, 0)


def jump(pre: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return np.where(pre > threshold, relu(pre), 0)


def top(pre: np.ndarray, k: int) -> np.ndarray:
    out = np.zeros_like(pre)
    for row, values in enumerate(pre):
        chosen = np.argsort(-values, kind="stable")[:k]
        out[row, chosen] = relu(values[chosen])
    return out


def gate(product: np.ndarray, b_gate: np.ndarray, r_mag: np.ndarray, b_mag: np.ndarray) -> np.ndarray:
    return (product + b_gate > 0) * relu(product * np.exp(r_mag) + b_mag)


def wide(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def store(folder: Path, file: str, weights: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> None:
    save_file({name: torch.from_numpy(value.copy()).to(dtype) for name, value in weights.items()}, folder / file)


def configure(folder: Path, file: str, **values: Any) -> None:
    (folder / file).write_text(json.dumps(values))


SAELENS = {
    "d_in": D,
    "d_sae": F,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.2.hook_resid_post", "model_name": "gpt2"},
}


def saelens(folder: Path, architecture: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Formula:
    """Any architecture of SAELens >= 6."""
    cfg = {**SAELENS, "architecture": architecture, **settings}
    transcoder = architecture.endswith("transcoder")
    out = OUT if transcoder else D
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (D, F), "W_dec": (F, out), "b_dec": (out,)}
    shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",), (F,))
    shapes |= {"threshold": (F,)} if "jumprelu" in architecture else {}
    shapes |= {"W_skip": (out, D)} if "skip" in architecture else {}
    if transcoder:
        cfg |= {"d_out": OUT, "apply_b_dec_to_input": False}
    if architecture == "topk":
        cfg = {"k": K, "rescale_acts_by_decoder_norm": False, **cfg}
    weights = draw(1, **shapes)
    weights = {n: torch.from_numpy(v).to(dtype).float().numpy() for n, v in weights.items()}
    store(folder, "sae_weights.safetensors", weights, dtype)
    configure(folder, "cfg.json", **cfg)
    return saelens_formula(wide(weights), cfg)


def saelens_formula(w: dict[str, np.ndarray], cfg: dict[str, Any]) -> Formula:
    norm = np.linalg.norm(w["W_dec"], axis=1) if cfg.get("rescale_acts_by_decoder_norm") else 1.0

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        product = (x - w["b_dec"] if cfg["apply_b_dec_to_input"] else x) @ w["W_enc"]
        if cfg["architecture"] == "gated":
            codes = gate(product, w["b_gate"], w["r_mag"], w["b_mag"])
        else:
            pre = (product + w["b_enc"]) * norm
            codes = jump(pre, w["threshold"]) if "threshold" in w else relu(pre)
            codes = top(pre, cfg["k"]) if cfg["architecture"] == "topk" else codes
        y = (codes / norm) @ w["W_dec"] + w["b_dec"]
        return codes, y + x @ w["W_skip"].T if "W_skip" in w else y

    return run


def sparsify(folder: Path, **settings: Any) -> Formula:
    """A SparseCoder's files; `settings` go into cfg.json."""
    cfg = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": F,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
        **settings,
    }
    count = cfg["num_latents"] or D * cfg["expansion_factor"]
    shapes: dict[str, tuple[int, ...]] = {"b_dec": (D,), "W_dec": (count, D), "encoder.weight": (count, D)}
    shapes |= {"encoder.bias": (count,)} | ({"W_skip": (D, D)} if cfg["skip_connection"] else {})
    w = draw(2, **shapes)
    store(folder, "sae.safetensors", w)
    configure(folder, "cfg.json", **cfg)
    w = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner = x if cfg["transcode"] else x - w["b_dec"]
        codes = top(relu(inner @ w["encoder.weight"].T + w["encoder.bias"]), cfg["k"])
        y = codes @ w["W_dec"] + w["b_dec"]
        return codes, y + x @ w["W_skip"].T if "W_skip" in w else y

    return run


LINEAR: dict[str, tuple[int, ...]] = {"encoder.weight": (F, D), "decoder.weight": (D, F)}
ENCODED: dict[str, tuple[int, ...]] = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
DICTIONARIES: dict[str, dict[str, tuple[int, ...]]] = {
    "AutoEncoder": {**LINEAR, "encoder.bias": (F,), "bias": (D,)},
    "AutoEncoderNew": {**LINEAR, "encoder.bias": (F,), "decoder.bias": (D,)},
    "GatedAutoEncoder": {**LINEAR, "decoder_bias": (D,), "r_mag": (F,), "gate_bias": (F,), "mag_bias": (F,)},
    "AutoEncoderTopK": {**LINEAR, "encoder.bias": (F,), "b_dec": (D,)},
    "BatchTopKSAE": {**LINEAR, "encoder.bias": (F,), "b_dec": (D,)},
    "MatryoshkaBatchTopKSAE": ENCODED,
    "JumpReluAutoEncoder": {**ENCODED, "threshold": (F,)},
}
"""Tensors of each class, without its numbers."""


def dictionary_learning(folder: Path, name: str, threshold: float = 0.7, **trainer: Any) -> Formula:
    """ae.pt (and the same as ae.safetensors) and config.json of a class; decoder rows are not normalised."""
    w = draw(3, **DICTIONARIES[name])
    state = {key: torch.from_numpy(value) for key, value in w.items()}
    if "TopK" in name:
        state |= {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    if "Matryoshka" in name:
        state["group_sizes"] = torch.tensor([16, F - 16])
    torch.save(state, folder / "ae.pt")
    save_file(state, folder / "ae.safetensors")
    about = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 5, "lm_name": "EleutherAI/pythia-70m"}
    about |= {"k": K} if "TopK" in name else {}
    configure(folder, "config.json", trainer={**about, **trainer}, buffer={"ctx_len": 128, "io": "out"})
    w = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return dictionary_formula(name, w, np.float32(threshold), x)

    return run


def dictionary_formula(name: str, w: dict[str, np.ndarray], threshold: float, x: np.ndarray) -> Any:
    enc = w["encoder.weight"].T if "encoder.weight" in w else w["W_enc"]
    dec = w["decoder.weight"].T if "decoder.weight" in w else w["W_dec"]
    if name == "AutoEncoder":  # its loader scales decoder rows to norm 1
        norm = np.linalg.norm(dec, axis=1)
        codes = relu((x - w["bias"]) @ enc + w["encoder.bias"]) * norm
        return codes, codes @ (dec / norm[:, None]) + w["bias"]
    if name == "AutoEncoderNew":
        codes = relu(x @ enc + w["encoder.bias"])
        return codes, codes @ dec + w["decoder.bias"]
    if name == "GatedAutoEncoder":
        codes = gate((x - w["decoder_bias"]) @ enc, w["gate_bias"], w["r_mag"], w["mag_bias"])
        return codes, codes @ dec + w["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        codes = jump(x @ enc + w["b_enc"], w["threshold"])
        return codes, codes @ dec + w["b_dec"]
    pre = (x - w["b_dec"]) @ enc + (w["encoder.bias"] if "encoder.bias" in w else w["b_enc"])
    codes = top(relu(pre), K) if name == "AutoEncoderTopK" else relu(pre) * (relu(pre) > threshold)
    return codes, codes @ dec + w["b_dec"]


def gemma_scope(folder: Path) -> Formula:
    """params.npz."""
    w = draw(4, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,), threshold=(F,))
    np.savez(folder / "params.npz", **w)
    w = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = jump(x @ w["W_enc"] + w["b_enc"], w["threshold"])
        return codes, codes @ w["W_dec"] + w["b_dec"]

    return run


def gemma_scope_2(folder: Path, *, affine: bool = False, transcoder: bool = False) -> Formula:
    """params.safetensors and config.json of an SAE or a transcoder."""
    out = OUT if transcoder else D
    shapes: dict[str, tuple[int, ...]] = {"w_enc": (D, F), "w_dec": (F, out), "b_enc": (F,), "b_dec": (out,)}
    shapes |= {"threshold": (F,)} | ({"affine_skip_connection": (D, out)} if affine else {})
    w = draw(5, **shapes)
    store(folder, "params.safetensors", w)
    hooks = {"hf_hook_point_in": "model.layers.9.output"}
    if transcoder:
        hooks = {
            f"hf_hook_point_{end}": f"model.layers.9.{place}_feedforward_layernorm.output"
            for end, place in (("in", "pre"), ("out", "post"))
        }
    config = {"architecture": "jump_relu", "model_name": "gemma-3-1b-pt", "affine_connection": affine, **hooks}
    configure(folder, "config.json", **config)
    w = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = jump(x @ w["w_enc"] + w["b_enc"], w["threshold"])
        y = codes @ w["w_dec"] + w["b_dec"]
        return codes, y + x @ w["affine_skip_connection"] if affine else y

    return run
