"""dictionary_learning: ae.pt (a state dict) and config.json of seven classes.

Shapes and formulas: `dictionary_learning/dictionary.py` and `trainers/`. Linear layers keep (out, in):
encoder.weight (F, D), decoder.weight (D, F); the JumpReLU and Matryoshka classes keep W_enc (D, F) and
W_dec (F, D). All but AutoEncoderNew and JumpReluAutoEncoder subtract the decoder's bias from the input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mistudio_core.errors import Unsupported
from mistudio_torch.formats import base
from mistudio_torch.formats.base import Array, Found, Origin, SaeMetadata
from mistudio_torch.formats.files import Config, SaeFolder
from mistudio_torch.formats.tensors import StoredTensors, broken
from mistudio_torch.sae import Sae, SaeShape

WEIGHTS_FILE = "ae.pt"
CONFIG_FILE = "config.json"
_SUBMODULES = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
"""What `submodule_name` has in it, and the hook."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Class:
    """How one of its classes names things, and what they mean."""

    ours: str
    """Our architecture."""
    bias: str
    """The decoder's bias."""
    subtracts: bool
    """Whether the encoder subtracts it from the input."""
    linear: bool = True
    """Whether the weights are those of linear layers."""
    encoder_biases: tuple[str, ...] = ("encoder.bias",)
    """Vectors over features beside the weights."""
    numbers: tuple[str, ...] = ()
    """Whole numbers in the state dict."""
    threshold: bool = False
    """Whether it has one threshold for all features."""


_CLASSES = {
    "AutoEncoder": _Class(ours="standard", bias="bias", subtracts=True),
    "AutoEncoderNew": _Class(ours="standard", bias="decoder.bias", subtracts=False),
    "GatedAutoEncoder": _Class(
        ours="gated", bias="decoder_bias", subtracts=True, encoder_biases=("gate_bias", "r_mag", "mag_bias")
    ),
    "AutoEncoderTopK": _Class(ours="topk", bias="b_dec", subtracts=True, numbers=("k",), threshold=True),
    "BatchTopKSAE": _Class(ours="jumprelu", bias="b_dec", subtracts=True, numbers=("k",), threshold=True),
    "MatryoshkaBatchTopKSAE": _Class(
        ours="jumprelu",
        bias="b_dec",
        subtracts=True,
        linear=False,
        encoder_biases=("b_enc",),
        numbers=("k", "group_sizes"),
        threshold=True,
    ),
    "JumpReluAutoEncoder": _Class(
        ours="jumprelu", bias="b_dec", subtracts=False, linear=False, encoder_biases=("b_enc", "threshold")
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """A state dict under one set of names, in the file's number format."""

    W_enc_FD: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    vectors: Mapping[str, Tensor]
    """Vectors over features by the origin's names."""
    k: int
    threshold: float | None


def read(folder: SaeFolder) -> Found:
    """See Format."""
    config = folder.config(CONFIG_FILE).section("trainer")
    name = config.text("dict_class")
    if name not in _CLASSES:
        raise Unsupported(
            f"dictionary_learning's class {name!r}", why=f"read are {', '.join(_CLASSES)}", instead="Use one of them."
        )
    found = _CLASSES[name]
    stored = folder.tensors(WEIGHTS_FILE)
    parts = _take(stored, config, found)
    notes: list[str] = []
    if name == "AutoEncoder":
        parts = _unit_rows(parts, notes)
    if parts.threshold is not None and found.ours == "jumprelu":
        notes.append(
            f"A feature fires above the threshold {parts.threshold:.6g}; k = {parts.k} was the mean in training."
        )
        if parts.threshold < 0:
            notes.append("The threshold was never measured: every positive pre-activation fires, many more than k.")
    metadata = _metadata(folder, notes)
    return Found(
        sae=_ours(parts, found),
        origin=_origin(parts, found),
        metadata=metadata,
        kind=name,
        dtype=stored.dtype_of("encoder.weight" if found.linear else "W_enc"),
        notes=tuple(notes),
    )


def _take(stored: StoredTensors, config: Config, found: _Class) -> _Parts:
    encoder, decoder = ("encoder.weight", "decoder.weight") if found.linear else ("W_enc", "W_dec")
    across = 0 if found.linear else 1
    features = config.integer("dict_size", stored.side(encoder, across, 2))
    width = config.integer("activation_dim", stored.side(encoder, 1 - across, 2))
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(found.encoder_biases, (features,))
    wanted[encoder] = (features, width) if found.linear else (width, features)
    wanted[decoder] = (width, features) if found.linear else (features, width)
    wanted[found.bias] = (width,)
    wanted |= {"threshold": ()} if found.threshold else {}
    wanted |= {"k": ()} if "k" in found.numbers else {}
    if "group_sizes" in found.numbers:
        wanted["group_sizes"] = (stored.side("group_sizes", 0),)
    tensors = stored.take(wanted, whole=found.numbers)
    k = 1
    if "k" in found.numbers:
        k = config.integer("k", high=features)
        if int(tensors["k"]) != k:
            raise broken(stored.file, f"its k is {int(tensors['k'])} and that of {CONFIG_FILE} is {k}")
    if "group_sizes" in tensors and int(tensors["group_sizes"].sum()) != features:
        raise broken(stored.file, f"its group_sizes do not add up to {features}")
    return _Parts(
        W_enc_FD=tensors[encoder] if found.linear else tensors[encoder].t(),
        W_dec_FD=tensors[decoder].t() if found.linear else tensors[decoder],
        b_dec_D=tensors[found.bias],
        vectors={name: tensors[name] for name in found.encoder_biases},
        k=k,
        threshold=float(tensors["threshold"]) if found.threshold else None,
    )


def _unit_rows(parts: _Parts, notes: list[str]) -> _Parts:
    """As `AutoEncoder.from_pretrained` does on loading: decoder rows of norm 1, codes that much larger."""
    norm_F = parts.W_dec_FD.double().norm(dim=1)
    if torch.allclose(norm_F, torch.ones_like(norm_F)):
        return parts
    notes.append("Decoder rows are scaled to norm 1 and codes by their norms, as dictionary_learning does on loading.")
    norm_F = torch.where(norm_F > 0, norm_F, 1.0)
    return _Parts(
        W_enc_FD=parts.W_enc_FD.double() * norm_F[:, None],
        W_dec_FD=parts.W_dec_FD.double() / norm_F[:, None],
        b_dec_D=parts.b_dec_D,
        vectors={"encoder.bias": parts.vectors["encoder.bias"].double() * norm_F},
        k=parts.k,
        threshold=parts.threshold,
    )


def _ours(parts: _Parts, found: _Class) -> Sae:
    features, width = parts.W_enc_FD.shape
    vectors = parts.vectors
    bias_F = vectors[found.encoder_biases[0]]
    weights = {
        "W_enc_FD": parts.W_enc_FD,
        "b_enc_F": bias_F,
        "W_dec_FD": parts.W_dec_FD,
        "b_dec_D": parts.b_dec_D,
    }
    if found.ours == "gated":
        weights |= {"r_mag_F": vectors["r_mag"], "b_mag_F": vectors["mag_bias"]}
    if found.ours == "jumprelu":
        one = torch.full((features,), parts.threshold) if parts.threshold is not None else vectors["threshold"]
        weights["threshold_F"] = one
    shape = SaeShape(architecture=found.ours, d_in=width, d_sae=features, k=parts.k)
    return base.build(shape, weights, input_bias_I=parts.b_dec_D if found.subtracts else None)


def _origin(parts: _Parts, found: _Class) -> Origin:
    """`encode` and `decode` of its classes as they are at inference."""
    b_dec_D = base.wide(parts.b_dec_D)
    vectors = {name: base.wide(vector) for name, vector in parts.vectors.items()}

    def encode(x_BD: Array) -> tuple[Array, Array]:
        product_BF = base.times(x_BD - b_dec_D if found.subtracts else x_BD, parts.W_enc_FD.t())
        if found.ours == "gated":
            return base.gated(product_BF, vectors["gate_bias"], vectors["r_mag"], vectors["mag_bias"])
        pre_BF = product_BF + vectors[found.encoder_biases[0]]
        if found.ours == "topk":
            return base.top_k(pre_BF, parts.k)
        if found.ours == "standard":
            return base.relu(pre_BF)
        one = vectors.get("threshold", np.asarray(parts.threshold if parts.threshold is not None else 0.0))
        return base.jump_relu(pre_BF, one)

    def decode(codes_BF: Array, _: Array) -> Array:
        return base.combined(codes_BF, parts.W_dec_FD) + b_dec_D

    return Origin(encode=encode, decode=decode)


def _metadata(folder: SaeFolder, notes: list[str]) -> SaeMetadata:
    whole = folder.config(CONFIG_FILE)
    trainer, buffer = whole.section("trainer"), whole.section("buffer")
    layer = trainer.integer("layer", low=0) if trainer.has("layer") else None
    hook, why = _hook(trainer.text("submodule_name"), layer)
    notes.append(f"{'Hook ' + hook if hook else 'The hook is not known'}: {why}. Say --hook where it is another.")
    if buffer.text("io", "out") == "in_and_out":
        notes.append("It was trained on a module's input and output: activations of the output do not fit its input.")
    return SaeMetadata(
        model_name=trainer.text("lm_name"),
        hook_name=hook,
        layer=layer,
        context_size=buffer.integer("ctx_len", high=1 << 40) if buffer.has("ctx_len") else None,
        other={key: trainer.values[key] for key in ("trainer_class", "submodule_name", "steps") if trainer.has(key)},
    )


def _hook(module: str, layer: int | None) -> tuple[str, str]:
    """(name, where it comes from) of the hook; the name is empty where nothing says it."""
    if module.startswith("blocks."):
        return module, "as the file says"
    if layer is None:
        return "", "the file names no layer"
    known = [name for key, name in _SUBMODULES.items() if key in module]
    if known:
        return f"blocks.{layer}.{known[0]}", f"from submodule_name {module!r}"
    if module:
        return "", f"submodule_name {module!r} is none of {', '.join(_SUBMODULES)}"
    return f"blocks.{layer}.hook_resid_post", "the file names only the layer, whose residual stream is usual"


def write(sae: Sae, folder: Path, metadata: SaeMetadata) -> None:
    """See Format. standard becomes AutoEncoderNew, whose loader leaves decoder norms as they are."""
    inner = sae.for_inference()
    if inner.shape.d_in != inner.shape.d_out or inner.shape.skip or metadata.is_transcoder:
        raise Unsupported(
            "a transcoder in the dictionary_learning layout", why="its classes are autoencoders", instead="Use saelens."
        )
    names = {"standard": "AutoEncoderNew", "gated": "GatedAutoEncoder", "topk": "AutoEncoderTopK"}
    name = names.get(inner.shape.architecture, "JumpReluAutoEncoder")
    state = _state(inner, _CLASSES[name])
    torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, folder / WEIGHTS_FILE)
    trainer = {
        "dict_class": name,
        "activation_dim": inner.shape.d_in,
        "dict_size": inner.shape.d_sae,
        "layer": metadata.layer if metadata.layer is not None else base.layer_of(metadata.hook_name),
        "lm_name": metadata.model_name,
        "submodule_name": metadata.hook_name or None,
    }
    trainer |= {"k": inner.shape.k} if name == "AutoEncoderTopK" else {}
    body = {"trainer": trainer, "buffer": {"ctx_len": metadata.context_size, "io": "out"}}
    (folder / CONFIG_FILE).write_text(json.dumps(body, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _state(sae: Sae, found: _Class) -> dict[str, Tensor]:
    """The state dict of a class, with its input bias taken out of the encoder's again."""
    state = dict(sae.state_dict())
    W_enc_FD, W_dec_FD, bias_F = state["W_enc_FD"], state["W_dec_FD"], state["b_enc_F"].double()
    shift_F = base.feature_dots(W_enc_FD, state["b_dec_D"]) if found.subtracts else torch.zeros_like(bias_F)
    made = {
        found.bias: state["b_dec_D"],
        found.encoder_biases[0]: (bias_F + shift_F).float(),
        "encoder.weight" if found.linear else "W_enc": W_enc_FD if found.linear else W_enc_FD.t(),
        "decoder.weight" if found.linear else "W_dec": W_dec_FD.t() if found.linear else W_dec_FD,
    }
    if found.ours == "gated":
        r_mag_F = state["r_mag_F"]
        made |= {"r_mag": r_mag_F, "mag_bias": (state["b_mag_F"] + r_mag_F.double().exp() * shift_F).float()}
    if found.ours == "jumprelu":
        made["threshold"] = state["threshold_F"]
    if found.ours == "topk":
        made |= {"k": torch.tensor(sae.shape.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    return made
