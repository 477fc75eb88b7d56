"""SAEs in the SAELens layout: sae_weights.safetensors, cfg.json, sparsity.safetensors.

Layout of SAELens >= 6.0: W_enc (D, F), b_enc (F), W_dec (F, D), b_dec (D), float32, reading raw
activations. Bytes are a function of the weights and the metadata: sorted keys, no time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistudio_core.errors import Corrupt, Unsupported
from mistudio_torch.sae import ARCHITECTURES, Sae, SaeShape, make_sae

WEIGHTS_FILE = "sae_weights.safetensors"
CONFIG_FILE = "cfg.json"
SPARSITY_FILE = "sparsity.safetensors"
_REFUSED = {"normalize_activations": "none", "reshape_activations": "none", "rescale_acts_by_decoder_norm": False}
"""Settings that change what the weights mean, and the value that is honoured."""


def save_sae(
    sae: Sae, path: Callable[[str], Path], *, metadata: Mapping[str, object], firing_frequency_F: Tensor
) -> None:
    """Writes the three files to `path(name)`; `firing_frequency_F` is the share of tokens on which each fires.

    Never-firing features get log10 frequency -10, as in SAELens.
    """
    from safetensors.torch import save_file

    weights = {
        "W_enc": sae.W_enc_FD.detach().t().float().cpu().contiguous(),
        "b_enc": sae.b_enc_F.detach().float().cpu().contiguous(),
        "W_dec": sae.W_dec_FD.detach().float().cpu().contiguous(),
        "b_dec": sae.b_dec_D.detach().float().cpu().contiguous(),
    }
    save_file(weights, path(WEIGHTS_FILE))
    sparsity_F = torch.log10(firing_frequency_F.double() + 1e-10).float().contiguous()
    save_file({"sparsity": sparsity_F}, path(SPARSITY_FILE))
    text = json.dumps(_config(sae.shape, metadata), sort_keys=True, indent=2, ensure_ascii=False)
    path(CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _config(shape: SaeShape, metadata: Mapping[str, object]) -> dict[str, object]:
    config: dict[str, object] = {
        "architecture": shape.architecture,
        "d_in": shape.d_in,
        "d_sae": shape.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _DEFAULT_METADATA | dict(metadata),
    }
    if shape.architecture == "topk":
        config |= {"k": shape.k, "rescale_acts_by_decoder_norm": False}
    return config


_DEFAULT_METADATA: dict[str, object] = {
    "sae_lens_version": None,
    "sae_lens_training_version": None,
    "dataset_path": None,
    "hook_name": None,
    "model_name": None,
    "model_class_name": None,
    "hook_head_index": None,
    "context_size": None,
    "seqpos_slice": None,
    "model_from_pretrained_kwargs": {},
    "prepend_bos": None,
    "exclude_special_tokens": True,
    "sequence_separator_token": None,
    "disable_concat_sequences": True,
    "neuronpedia_id": None,
}


def load_sae(path: Callable[[str], Path]) -> tuple[Sae, dict[str, Any]]:
    """An SAE and its cfg.json. Raises Unsupported for settings that are not honoured, Corrupt for damage.

    An input bias (`apply_b_dec_to_input`) is folded into the encoder's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads(path(CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(path(WEIGHTS_FILE))
        shape = _shape(config)
        sae = make_sae(shape)
        weights = _weights(tensors, bool(config.get("apply_b_dec_to_input", True)))
        sae.load_state_dict(weights)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise Corrupt(
            f"The SAE cannot be read ({type(error).__name__}). Its cfg.json and weights must be in SAELens layout."
        ) from error
    return sae.eval().requires_grad_(requires_grad=False), config


def _shape(config: Mapping[str, Any]) -> SaeShape:
    """The shape in a config. Raises Unsupported."""
    for key, honoured in _REFUSED.items():
        if config.get(key, honoured) != honoured:
            raise Unsupported(
                f"{key} = {config[key]!r}",
                why=f"only {honoured!r} is read",
                instead="Fold it into the weights and save again.",
            )
    if config["architecture"] not in ARCHITECTURES:
        known = " and ".join(sorted(ARCHITECTURES))
        raise Unsupported(f"architecture {config['architecture']!r}", why=f"known are {known}", instead=f"Use {known}.")
    return SaeShape(
        architecture=config["architecture"],
        d_in=int(config["d_in"]),
        d_sae=int(config["d_sae"]),
        k=int(config.get("k", 1)),
    )


def _weights(tensors: Mapping[str, Tensor], input_bias: bool) -> dict[str, Tensor]:
    """Feature-major float32 weights."""
    W_enc_FD = tensors["W_enc"].float().t().contiguous()
    b_enc_F, b_dec_D = tensors["b_enc"].float(), tensors["b_dec"].float()
    if input_bias:
        b_enc_F = b_enc_F - W_enc_FD @ b_dec_D
    return {"W_enc_FD": W_enc_FD, "b_enc_F": b_enc_F, "W_dec_FD": tensors["W_dec"].float(), "b_dec_D": b_dec_D}
