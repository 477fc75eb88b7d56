"""sparsify: cfg.json and sae.safetensors of a top-k SAE, transcoder or skip transcoder.

Weights (`sparsify/sparse_coder.py`): encoder.weight (F, D), encoder.bias (F), W_dec (F, D), b_dec (D),
W_skip (D, D). b_dec is subtracted from the input unless `transcode`; the k largest of ReLU fire.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mistudio_core.errors import Unsupported
from mistudio_torch.formats import base
from mistudio_torch.formats.base import Array, Found, Origin, SaeMetadata
from mistudio_torch.formats.files import Config, SaeFolder
from mistudio_torch.formats.tensors import broken
from mistudio_torch.sae import Sae, SaeShape

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
_ENDINGS = {"": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out", "self_attn": "hook_attn_out"}
"""Modules of a block whose output is a hook with a name of its own."""


def read(folder: SaeFolder) -> Found:
    """See Format."""
    config = folder.config(CONFIG_FILE)
    d_in = config.integer("d_in")
    features = config.integer("num_latents", 0, low=0) or d_in * config.integer("expansion_factor", 32, high=1 << 20)
    k = config.integer("k", 32, high=features)
    transcode, skip = config.flag("transcode", default=False), config.flag("skip_connection", default=False)
    _refuse_activations(config)
    stored = folder.tensors(WEIGHTS_FILE)
    decoder = "decoder.weight" if "decoder.weight" in stored else "W_dec"
    wanted = {"encoder.weight": (features, d_in), "encoder.bias": (features,), "b_dec": (d_in,)}
    wanted[decoder] = (features, d_in) if decoder == "W_dec" else (d_in, features)
    if skip:
        wanted["W_skip"] = (d_in, d_in)
    tensors = stored.take(wanted)
    W_dec_FD = tensors["W_dec"] if decoder == "W_dec" else tensors[decoder].t()
    weights = {
        "W_enc_FD": tensors["encoder.weight"],
        "b_enc_F": tensors["encoder.bias"],
        "W_dec_FD": W_dec_FD,
        "b_dec_D": tensors["b_dec"],
    }
    weights |= {"W_skip_OI": tensors["W_skip"]} if skip else {}
    shape = SaeShape(architecture="topk", d_in=d_in, d_sae=features, k=k, skip=skip)
    sae = base.build(shape, weights, input_bias_I=None if transcode else tensors["b_dec"])
    metadata, notes = _metadata(folder, transcode=transcode)
    if config.flag("multi_topk", default=False):
        notes.append("multi_topk changed the loss in training, not what the SAE computes.")
    return Found(
        sae=sae,
        origin=_origin(tensors, W_dec_FD, k, transcode=transcode),
        metadata=metadata,
        kind="topk" + (" skip" if skip else "") + (" transcoder" if transcode else ""),
        dtype=stored.dtype_of("encoder.weight"),
        notes=tuple(notes),
    )


def _refuse_activations(config: Config) -> None:
    activation = config.text("activation", "topk")
    if activation == "groupmax":
        raise Unsupported(
            "sparsify's groupmax activation",
            why="one feature of each group fires, which is not the k largest of all",
            instead="Use an SAE that was trained with topk.",
        )
    if activation != "topk":
        config.refuse("activation", activation, "topk")
    if config.flag("signed", default=False):
        raise Unsupported(
            "sparsify's signed top-k", why="our codes are not negative", instead="Use an SAE without `signed`."
        )


def _origin(tensors: Mapping[str, Tensor], W_dec_FD: Tensor, k: int, *, transcode: bool) -> Origin:
    """`SparseCoder.encode` and `decode`, and the skip map of `forward`."""
    bias_F, b_dec_D = base.wide(tensors["encoder.bias"]), base.wide(tensors["b_dec"])

    def encode(x_BI: Array) -> tuple[Array, Array]:
        x_BI = x_BI if transcode else x_BI - b_dec_D
        return base.top_k(base.times(x_BI, tensors["encoder.weight"].t()) + bias_F, k)

    def decode(codes_BF: Array, x_BI: Array) -> Array:
        y_BD = base.combined(codes_BF, W_dec_FD) + b_dec_D
        return y_BD + base.times(x_BI, tensors["W_skip"].t()) if "W_skip" in tensors else y_BD

    return Origin(encode=encode, decode=decode)


def _metadata(folder: SaeFolder, *, transcode: bool) -> tuple[SaeMetadata, list[str]]:
    """From the run's config.json and the folder's name, which is the module that was read."""
    run = folder.config_beside("config.json")
    module = folder.place.name if folder.place is not None else ""
    layer = base.layer_of(module)
    hook, notes = "", []
    if layer is not None:
        ending = module.split(f"{layer}", 1)[1].removeprefix(".")
        hook = f"blocks.{layer}.{_ENDINGS[ending]}" if ending in _ENDINGS else module
        notes.append(f"The hook is taken from the folder's name, {module}: that module's output.")
    elif "embed" in module:
        hook = "hook_embed"
    if transcode:
        notes.append("It maps the module's input to its output.")
    known = {key: run.values.get(key) for key in ("model", "dataset", "ctx_len")}
    model, dataset, context = known["model"], known["dataset"], known["ctx_len"]
    return (
        SaeMetadata(
            model_name=model if isinstance(model, str) else "",
            hook_name=f"{module}.input" if hook and transcode else hook,
            hook_name_out=hook if transcode else "",
            layer=layer,
            context_size=context if type(context) is int else None,
            dataset=dataset if isinstance(dataset, str) else "",
            other={"module": module} if hook else {},
        ),
        notes,
    )


def write(sae: Sae, folder: Path, metadata: SaeMetadata) -> None:
    """See Format."""
    from safetensors.torch import save_file

    inner = sae.for_inference()
    shape = inner.shape
    if shape.architecture != "topk" or shape.d_in != shape.d_out:
        what = "a transcoder between two widths" if shape.architecture == "topk" else f"a {shape.architecture} SAE"
        raise Unsupported(
            f"{what} in the sparsify layout", why="it holds topk of one width", instead="Export it to saelens."
        )
    transcode = metadata.is_transcoder or shape.skip
    bias_F = inner.b_enc_F.double()
    if not transcode:
        bias_F = bias_F + base.feature_dots(inner.W_enc_FD.detach(), inner.b_dec_D.detach())
    weights = {
        "encoder.weight": inner.W_enc_FD,
        "encoder.bias": bias_F,
        "W_dec": inner.W_dec_FD,
        "b_dec": inner.b_dec_D,
    }
    if inner.W_skip_OI is not None:
        weights["W_skip"] = inner.W_skip_OI
    if any(not bool(w.float().isfinite().all()) for w in weights.values()):
        raise broken(WEIGHTS_FILE, "its weights would not be finite")
    save_file({n: w.detach().float().cpu().contiguous() for n, w in weights.items()}, folder / WEIGHTS_FILE)
    norms_F = inner.W_dec_FD.detach().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, shape.d_sae // shape.d_in),
        "normalize_decoder": bool(((norms_F - 1).abs() < 1e-3).all()),
        "num_latents": shape.d_sae,
        "k": shape.k,
        "multi_topk": False,
        "skip_connection": shape.skip,
        "transcode": transcode,
        "d_in": shape.d_in,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, indent=1) + "\n", encoding="utf-8")
