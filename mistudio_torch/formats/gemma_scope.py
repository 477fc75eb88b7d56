"""Gemma Scope (params.npz) and Gemma Scope 2 (params.safetensors, config.json): JumpReLU, b_dec not subtracted.

Gemma Scope: W_enc (D, F), W_dec (F, D), b_enc, b_dec, threshold (F). Gemma Scope 2: w_enc (I, F), w_dec
(F, O) and the same vectors, affine_skip_connection (I, O). Model and hook of the first stand only in the
names of folders. Cross-layer transcoders, which write many layers, are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mistudio_core.errors import Unsupported
from mistudio_torch.formats import base
from mistudio_torch.formats.base import Array, Found, Origin, SaeMetadata
from mistudio_torch.formats.files import Config, SaeFolder
from mistudio_torch.formats.tensors import StoredTensors, broken
from mistudio_torch.sae import Sae, SaeShape

NPZ_FILE = "params.npz"
WEIGHTS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"
_SKIP = "affine_skip_connection"
_KINDS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z", "transcoders": "hook_mlp_in"}
_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "hook_mlp_in",
}
"""Gemma Scope 2's places in a block, and ours."""


def read_npz(folder: SaeFolder) -> Found:
    """See Format."""
    stored = folder.tensors(NPZ_FILE)
    notes: list[str] = []
    metadata = _from_path("/".join(folder.place.parts[-4:]) if folder.place is not None else "", notes)
    return _found(stored, ("W_enc", "W_dec"), metadata, notes, "jump_relu")


def read_safetensors(folder: SaeFolder) -> Found:
    """See Format."""
    stored = folder.tensors(WEIGHTS_FILE)
    config = folder.config(CONFIG_FILE)
    architecture = config.text("architecture")
    if architecture != "jump_relu":
        config.refuse("architecture", architecture or None, "jump_relu")
    if config.has("affine_connection") and config.flag("affine_connection", default=False) != (_SKIP in stored):
        there = "has one" if _SKIP in stored else "has none"
        raise broken(
            stored.file, f"{CONFIG_FILE} says affine_connection = {config.values['affine_connection']}, it {there}"
        )
    notes: list[str] = []
    return _found(stored, ("w_enc", "w_dec"), _from_config(config, notes), notes, architecture)


def _found(stored: StoredTensors, names: tuple[str, str], metadata: SaeMetadata, notes: list[str], kind: str) -> Found:
    encoder, decoder = names
    if decoder in stored and len(stored.specs[decoder].shape) == 3:
        raise Unsupported(
            "a cross-layer transcoder",
            why="it writes many layers, and our SAEs write one",
            instead="Use the transcoder or the SAE of one layer.",
        )
    features, out = stored.side("b_enc", 0), stored.side("b_dec", 0)
    skip = _SKIP in stored and encoder == "w_enc"
    transcoder = skip or metadata.is_transcoder
    width = stored.side(encoder, 0, 2) if transcoder else out
    wanted: dict[str, tuple[int, ...]] = {encoder: (width, features), decoder: (features, out)}
    wanted |= {"b_enc": (features,), "b_dec": (out,), "threshold": (features,)}
    wanted |= {_SKIP: (width, out)} if skip else {}
    tensors = stored.take(wanted)
    if features in (width, out):
        notes.append("The file does not say its sizes and its matrices are square: check it with activations.")
    weights = {
        "W_enc_FD": tensors[encoder].t(),
        "b_enc_F": tensors["b_enc"],
        "W_dec_FD": tensors[decoder],
        "b_dec_D": tensors["b_dec"],
        "threshold_F": tensors["threshold"],
    }
    weights |= {"W_skip_OI": tensors[_SKIP].t()} if skip else {}
    shape = SaeShape(architecture="jumprelu", d_in=width, d_out=out, d_sae=features, k=1, skip=skip)
    return Found(
        sae=base.build(shape, weights),
        origin=_origin(tensors, encoder, decoder),
        metadata=metadata,
        kind=kind,
        dtype=stored.dtype_of(encoder),
        notes=tuple(notes),
    )


def _origin(tensors: Mapping[str, Tensor], encoder: str, decoder: str) -> Origin:
    """Codes f = ReLU(pre) * [pre > threshold], pre = x W_enc + b_enc; y = f W_dec + b_dec (+ x affine)."""
    small = {name: base.wide(t) for name, t in tensors.items() if t.ndim == 1}

    def encode(x_BI: Array) -> tuple[Array, Array]:
        return base.jump_relu(base.times(x_BI, tensors[encoder]) + small["b_enc"], small["threshold"])

    def decode(codes_BF: Array, x_BI: Array) -> Array:
        y_BO = base.combined(codes_BF, tensors[decoder]) + small["b_dec"]
        return y_BO + base.times(x_BI, tensors[_SKIP]) if _SKIP in tensors else y_BO

    return Origin(encode=encode, decode=decode)


def _from_path(path: str, notes: list[str]) -> SaeMetadata:
    """What the names of the folders say: repository, layer, embedding."""
    repository = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)", path)
    layer = re.search(r"layer_(\d+)", path)
    if "embedding" in path:
        notes.append("It reads token embeddings before Gemma multiplies them with the root of the width.")
    if repository is None or (layer is None and "embedding" not in path):
        notes.append("Neither file nor folder names say which model and hook it belongs to: say --model and --hook.")
    if repository is None:
        return SaeMetadata(layer=int(layer[1]) if layer else None)
    size, tuned, kind = repository.groups()
    hook = "hook_embed" if layer is None else f"blocks.{int(layer[1])}.{_KINDS[kind]}"
    if kind == "att":
        notes.append("It reads the outputs of all attention heads, flattened: head-major, n_heads x d_head values.")
    return SaeMetadata(
        model_name=f"google/gemma-2-{size}" + ("-it" if tuned == "it" else ""),
        hook_name=hook,
        hook_name_out=f"blocks.{int(layer[1])}.hook_mlp_out" if kind == "transcoders" and layer else "",
        layer=int(layer[1]) if layer else None,
        context_size=1024,
        prepend_bos=True,
    )


def _from_config(config: Config, notes: list[str]) -> SaeMetadata:
    places = [config.text(key) for key in ("hf_hook_point_in", "hf_hook_point_out")]
    hooks = [_hook(place) for place in places]
    if places[0].endswith("o_proj.input"):
        notes.append("It reads the outputs of all attention heads, flattened: head-major, n_heads x d_head values.")
    return SaeMetadata(
        model_name=config.text("model_name"),
        hook_name=hooks[0],
        hook_name_out=hooks[1],
        layer=base.layer_of(places[0]),
        prepend_bos=True,
        other={f"hf_hook_point_{end}": place for end, place in zip(("in", "out"), places, strict=True) if place},
    )


def _hook(place: str) -> str:
    """`model.layers.3.output` -> `blocks.3.hook_resid_post`; a place without such a name stays as it is."""
    found = re.fullmatch(r"(?:model\.)?layers\.(\d+)\.(.+)", place)
    return f"blocks.{found[1]}.{_HOOKS[found[2]]}" if found and found[2] in _HOOKS else place


def _place(hook: str) -> str:
    """The other way."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    ours = {name: place for place, name in _HOOKS.items()}
    return f"model.layers.{found[1]}.{ours[found[2]]}" if found and found[2] in ours else hook


def _held(sae: Sae, layout: str) -> Sae:
    inner = sae.for_inference()
    if inner.shape.architecture != "jumprelu":
        raise Unsupported(
            f"a {inner.shape.architecture} SAE in the {layout} layout",
            why="it holds JumpReLU SAEs",
            instead="Export it to saelens or dictionary_learning.",
        )
    return inner


def write_npz(sae: Sae, folder: Path, metadata: SaeMetadata) -> None:
    """See Format. The layout has no place for model and hook."""
    inner = _held(sae, "gemma_scope")
    if inner.shape.skip or inner.shape.d_in != inner.shape.d_out or metadata.is_transcoder:
        raise Unsupported(
            "a transcoder in the gemma_scope layout", why="it holds autoencoders", instead="Export it to gemma_scope_2."
        )
    arrays: dict[str, Any] = {name: np.ascontiguousarray(t.numpy()) for name, t in _tensors(inner).items()}
    np.savez(folder / NPZ_FILE, **arrays)


def write_safetensors(sae: Sae, folder: Path, metadata: SaeMetadata) -> None:
    """See Format."""
    from safetensors.torch import save_file

    inner = _held(sae, "gemma_scope_2")
    tensors = {name.replace("W_", "w_"): t.contiguous() for name, t in _tensors(inner).items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    config: dict[str, object] = {
        "architecture": "jump_relu",
        "model_name": metadata.model_name,
        "hf_hook_point_in": metadata.other.get("hf_hook_point_in", _place(metadata.hook_name)),
        "affine_connection": inner.shape.skip,
    }
    if metadata.hook_name_out:
        config["hf_hook_point_out"] = metadata.other.get("hf_hook_point_out", _place(metadata.hook_name_out))
    (folder / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _tensors(sae: Sae) -> dict[str, Tensor]:
    state = {name: t.detach().float().cpu() for name, t in sae.state_dict().items()}
    made = {
        "W_enc": state["W_enc_FD"].t(),
        "W_dec": state["W_dec_FD"],
        "b_enc": state["b_enc_F"],
        "b_dec": state["b_dec_D"],
        "threshold": state["threshold_F"],
    }
    return made | ({_SKIP: state["W_skip_OI"].t()} if "W_skip_OI" in state else {})
