"""SAEs in the SAELens layout: sae_weights.safetensors, cfg.json, sparsity.safetensors.

Layout of SAELens >= 6.0: W_enc (I, F), b_enc (F), W_dec (F, O), b_dec (O); also our own store. What we
write is float32 and reads raw activations; bytes are a function of the weights and the metadata:
sorted keys, no time. What we read may be older, see `saelens_config`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mistudio_core.errors import Corrupt, InvalidInput, Unsupported
from mistudio_torch.formats import base
from mistudio_torch.formats.base import Array, Found, Origin, SaeMetadata
from mistudio_torch.formats.files import Config, SaeFolder
from mistudio_torch.formats.saelens_config import LAYOUT_VERSION, Settings, read_settings
from mistudio_torch.formats.tensors import StoredTensors, broken
from mistudio_torch.sae import Sae, SaeShape

WEIGHTS_FILE = "sae_weights.safetensors"
CONFIG_FILE = "cfg.json"
SPARSITY_FILE = "sparsity.safetensors"
_SCALER_FILE = "activation_scaler.json"
_TRANSCODERS = ("standard", "jumprelu")
"""Architectures that SAELens has transcoders of."""


def save_sae(
    sae: Sae,
    path: Callable[[str], Path],
    *,
    metadata: Mapping[str, object],
    firing_frequency_F: Tensor | None = None,
) -> None:
    """Writes the SAE in its inference form to `path(name)`; `firing_frequency_F`: share of tokens on which each fires.

    Never-firing features get log10 frequency -10, as in SAELens. Top-k and gated transcoders are written
    under names of our own (`topk_transcoder`), which SAELens refuses to load.
    """
    from safetensors.torch import save_file

    sae = sae.for_inference()
    weights = {
        "W_enc": sae.W_enc_FD.detach().t(),
        "b_enc": sae.b_enc_F.detach(),
        "W_dec": sae.W_dec_FD.detach(),
        "b_dec": sae.b_dec_D.detach(),
    }
    more = {"threshold": "threshold_F", "r_mag": "r_mag_F", "b_mag": "b_mag_F", "W_skip": "W_skip_OI"}
    weights |= {
        name: getattr(sae, ours).detach() for name, ours in more.items() if getattr(sae, ours, None) is not None
    }
    if sae.shape.architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
    save_file({name: w.float().cpu().contiguous() for name, w in weights.items()}, path(WEIGHTS_FILE))
    if firing_frequency_F is not None:
        sparsity_F = torch.log10(firing_frequency_F.double() + 1e-10).float().contiguous()
        save_file({"sparsity": sparsity_F}, path(SPARSITY_FILE))
    text = json.dumps(_config(sae.shape, metadata), sort_keys=True, indent=2, ensure_ascii=False)
    path(CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _config(shape: SaeShape, metadata: Mapping[str, object]) -> dict[str, object]:
    out = metadata.get("hook_name_out")
    transcoder = shape.skip or shape.d_in != shape.d_out or (out is not None and out != metadata.get("hook_name"))
    config: dict[str, object] = {
        "architecture": _name(shape, transcoder=transcoder),
        "d_in": shape.d_in,
        "d_sae": shape.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _DEFAULT_METADATA | dict(metadata) | {"sae_lens_version": LAYOUT_VERSION},
    }
    if transcoder:
        config["d_out"] = shape.d_out
    if shape.architecture == "topk":
        config |= {"k": shape.k, "rescale_acts_by_decoder_norm": False}
    return config


def _name(shape: SaeShape, *, transcoder: bool) -> str:
    parts = ["" if transcoder and shape.architecture == "standard" else shape.architecture]
    parts += ["skip" if shape.skip else "", "transcoder" if transcoder else ""]
    return "_".join(part for part in parts if part)


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
    """An SAE of our own store and its cfg.json. Raises Unsupported for settings not honoured, Corrupt for damage."""
    folder = SaeFolder({CONFIG_FILE, WEIGHTS_FILE}, path)
    try:
        return read(folder).sae, dict(folder.config(CONFIG_FILE).values)
    except Unsupported:
        raise
    except InvalidInput as error:
        raise Corrupt(f"The SAE cannot be read. {error.message}") from error


def read(folder: SaeFolder) -> Found:
    """See Format."""
    scaler = folder.config(_SCALER_FILE) if _SCALER_FILE in folder.names else Config(_SCALER_FILE, {})
    settings = read_settings(folder.config(CONFIG_FILE), scaler)
    stored = folder.tensors(WEIGHTS_FILE)
    tensors, notes = _take(stored, settings)
    return Found(
        sae=_ours(tensors, settings),
        origin=_origin(tensors, settings),
        metadata=settings.metadata,
        kind=settings.name,
        dtype=stored.dtype_of("W_enc"),
        notes=(*settings.notes, *notes),
    )


def _take(stored: StoredTensors, settings: Settings) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that the settings ask for; a factor of fine-tuning as `scaling_factor`."""
    features, width, out = settings.d_sae, settings.d_in, settings.d_out
    wanted = {"W_enc": (width, features), "W_dec": (features, out), "b_dec": (out,)}
    biases = ("b_gate", "b_mag", "r_mag") if settings.base == "gated" else ("b_enc",)
    wanted |= dict.fromkeys(biases, (features,))
    if settings.base == "jumprelu":
        wanted["threshold"] = (features,)
    if settings.skip:
        wanted["W_skip"] = (out, width)
    factor = next((n for n in ("scaling_factor", "finetuning_scaling_factor") if n in stored), None)
    if factor is None:
        return stored.take(wanted), []
    tensors = stored.take({**wanted, factor: (features,)})
    factor_F = tensors.pop(factor)
    if bool((factor_F == 1).all()):
        return tensors, []
    if not settings.finetuned_scale:
        raise broken(stored.file, f"its {factor} is not 1 and cfg.json does not say that it is used")
    return {**tensors, "scaling_factor": factor_F}, [
        "The factor of fine-tuning on each code is folded into the decoder."
    ]


def _ours(tensors: Mapping[str, Tensor], settings: Settings) -> Sae:
    """Everything that is constant, folded."""
    W_enc_FD, W_dec_FD = tensors["W_enc"].t(), tensors["W_dec"]
    b_enc_F, b_dec_D = tensors.get("b_enc", tensors.get("b_gate")), tensors["b_dec"]
    if b_enc_F is None:
        raise broken(WEIGHTS_FILE, "it has no bias")
    if settings.input_scale != 1.0:
        W_enc_FD, W_dec_FD = W_enc_FD.double() * settings.input_scale, W_dec_FD.double() / settings.input_scale
        b_dec_D = b_dec_D.double() / settings.input_scale
    if "scaling_factor" in tensors:
        W_dec_FD = W_dec_FD.double() * tensors["scaling_factor"].double()[:, None]
    weights = {"W_enc_FD": W_enc_FD, "b_enc_F": b_enc_F, "W_dec_FD": W_dec_FD, "b_dec_D": b_dec_D}
    if settings.rescales_by_norm:
        norm_F1 = tensors["W_dec"].double().norm(dim=1, keepdim=True).clamp_min(1e-8)
        weights["W_enc_FD"] = W_enc_FD.double() * norm_F1
        weights["b_enc_F"] = b_enc_F.double() * norm_F1[:, 0]
        weights["W_dec_FD"] = W_dec_FD.double() / norm_F1
    names = {"threshold": "threshold_F", "r_mag": "r_mag_F", "b_mag": "b_mag_F", "W_skip": "W_skip_OI"}
    weights |= {ours: tensors[name] for name, ours in names.items() if name in tensors}
    shape = SaeShape(
        architecture=settings.base,
        d_in=settings.d_in,
        d_sae=settings.d_sae,
        d_out=settings.d_out,
        k=settings.k,
        skip=settings.skip,
    )
    return base.build(shape, weights, input_bias_I=b_dec_D if settings.subtracts_b_dec else None)


def _origin(tensors: Mapping[str, Tensor], settings: Settings) -> Origin:
    """SAELens' encode and decode (`sae_lens/saes/`), its input scaled as its activation store does."""
    small = {name: base.wide(t) for name, t in tensors.items() if t.ndim == 1}
    norm_F = base.wide(tensors["W_dec"].double().norm(dim=1)) if settings.rescales_by_norm else np.ones(settings.d_sae)
    norm_F = np.maximum(norm_F, 1e-8)

    def encode(x_BI: Array) -> tuple[Array, Array]:
        x_BI = x_BI * settings.input_scale - (small["b_dec"] if settings.subtracts_b_dec else 0.0)
        product_BF = base.times(x_BI, tensors["W_enc"])
        if settings.base == "gated":
            return base.gated(product_BF, small["b_gate"], small["r_mag"], small["b_mag"])
        pre_BF = (product_BF + small["b_enc"]) * norm_F
        if settings.base == "topk":
            return base.top_k(pre_BF, settings.k)
        return base.jump_relu(pre_BF, small["threshold"]) if settings.base == "jumprelu" else base.relu(pre_BF)

    def decode(codes_BF: Array, x_BI: Array) -> Array:
        codes_BF = codes_BF / norm_F * small.get("scaling_factor", 1.0)
        y_BO = (base.combined(codes_BF, tensors["W_dec"]) + small["b_dec"]) / settings.input_scale
        return y_BO + base.times(x_BI, tensors["W_skip"].t()) if "W_skip" in tensors else y_BO

    return Origin(encode=encode, decode=decode)


def write(sae: Sae, folder: Path, metadata: SaeMetadata) -> None:
    """See Format."""
    shape = sae.for_inference().shape
    name = _name(shape, transcoder=shape.skip or shape.d_in != shape.d_out or metadata.is_transcoder)
    if name.endswith("transcoder") and shape.architecture not in _TRANSCODERS:
        raise Unsupported(
            f"a {shape.architecture} transcoder in the SAELens layout",
            why=f"SAELens has transcoders of {' and '.join(_TRANSCODERS)} only",
            instead="Export it to sparsify, which has topk transcoders." if name.startswith("topk") else "Keep ours.",
        )
    save_sae(sae, folder.joinpath, metadata=plain_metadata(metadata))


def plain_metadata(metadata: SaeMetadata) -> dict[str, object]:
    """By SAELens' names."""
    found: dict[str, object] = {
        **metadata.other,
        "model_name": metadata.model_name or None,
        "hook_name": metadata.hook_name or None,
        "dataset_path": metadata.dataset or None,
        "context_size": metadata.context_size,
        "prepend_bos": metadata.prepend_bos,
    }
    return found | ({"hook_name_out": metadata.hook_name_out} if metadata.hook_name_out else {})
