"""What every format shares: what an import yields, what the origin's formula is, how our SAE is put together.

`build` folds an input bias away, because our SAEs read raw activations and never subtract one.
Owns no file and no formula of a format. B rows, F features, I and O widths of input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mistudio_torch.sae import Sae, SaeShape, make_sae

if TYPE_CHECKING:
    from pathlib import Path

    from mistudio_torch.formats.files import SaeFolder

Array = np.ndarray[Any, np.dtype[np.float64]]
"""A float64 array of the references."""
_PART = 4096
"""Features that are widened to float64 at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeMetadata:
    """Where an SAE belongs, as far as its files say."""

    model_name: str = ""
    """The language model; empty: not known."""
    hook_name: str = ""
    """What it reads, by its SAELens name, for example `blocks.3.hook_resid_post`; empty: not known."""
    hook_name_out: str = ""
    """What a transcoder writes; empty for autoencoders."""
    layer: int | None = None
    """Block of the hook, from 0; None: not known."""
    context_size: int | None = None
    """Tokens of a context in training; None: not known."""
    dataset: str = ""
    """Training text; empty: not known."""
    prepend_bos: bool | None = None
    """Whether contexts began with a BOS token; None: not known."""
    other: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """What else the files say, by the origin's own names; plain values."""

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes another hook than it reads."""
        return bool(self.hook_name_out) and self.hook_name_out != self.hook_name

    def given(self, *, model_name: str = "", hook_name: str = "") -> SaeMetadata:
        """The same with what a person says instead, where they say something."""
        found = replace(self, model_name=model_name or self.model_name)
        return found if not hook_name else replace(found, hook_name=hook_name, layer=layer_of(hook_name))


def layer_of(hook_name: str) -> int | None:
    """The number in a hook's or module's name: `blocks.3.hook_resid_post` and `layers.3.mlp` are at 3."""
    return next((int(part) for part in hook_name.split(".") if part.isdecimal()), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The origin's own formula over the file's own tensors: slow, float64, apart from our code."""

    encode: Callable[[Array], tuple[Array, Array]]
    """x_BI -> (codes_BF, distance_BF): how far a code is from jumping, relative to its row; inf: it does not jump."""
    decode: Callable[[Array, Array], Array]
    """(codes_BF, x_BI) -> y_BO."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a reader makes of a folder, not yet compared with the origin."""

    sae: Sae
    """In our form: reads raw activations."""
    origin: Origin
    """What it is compared with."""
    metadata: SaeMetadata
    """Where it belongs."""
    kind: str
    """The class or architecture by the origin's name."""
    dtype: str
    """Number format of the file's weights, as safetensors names it: F32, BF16 ..."""
    notes: tuple[str, ...] = ()
    """What a person should know, a sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One layout of files."""

    name: str
    """As `--format` takes it."""
    files: tuple[str, ...]
    """What a folder has that is in this layout."""
    read: Callable[[SaeFolder], Found]
    """Raises InvalidInput for lies and damage, Unsupported for what our SAEs cannot hold."""
    write: Callable[[Sae, Path, SaeMetadata], None]
    """Into an existing folder. Raises Unsupported for what the layout cannot hold."""


def build(
    shape: SaeShape,
    weights: Mapping[str, Tensor],
    *,
    input_bias_I: Tensor | None = None,
) -> Sae:
    """Our SAE of weights under our names, float32; `input_bias_I` is what the origin subtracts from its input.

    pre = (x - b) W^T + b_enc = x W^T + (b_enc - W b), in float64; a gated SAE's magnitude bias moves by exp(r) W b.
    """
    sae = make_sae(shape)
    values = dict(weights)
    if input_bias_I is not None:
        shift_F = feature_dots(values["W_enc_FD"], input_bias_I)
        values["b_enc_F"] = values["b_enc_F"].double() - shift_F
        if "b_mag_F" in values:
            values["b_mag_F"] = values["b_mag_F"].double() - values["r_mag_F"].double().exp() * shift_F
    with torch.no_grad():
        sae.load_state_dict({name: value.float() for name, value in values.items()})
    return sae.eval().requires_grad_(requires_grad=False)


def feature_dots(W_FI: Tensor, vector_I: Tensor) -> Tensor:
    """W v of feature-major weights, float64 (F,), a part of the features at a time."""
    parts = [W_FI[i : i + _PART].double() @ vector_I.double() for i in range(0, len(W_FI), _PART)]
    return torch.cat(parts)


def wide(tensor: Tensor) -> Array:
    """A small tensor as float64."""
    array: Array = tensor.double().numpy()
    return array


def times(x_BI: Array, W_IF: Tensor) -> Array:
    """The product x W in float64, W of any number format."""
    parts = [x_BI @ wide(W_IF[:, i : i + _PART]) for i in range(0, W_IF.shape[1], _PART)]
    return np.concatenate(parts, axis=1)


def combined(codes_BF: Array, W_FO: Tensor) -> Array:
    """The product of codes and W in float64, W of any number format."""
    sums_BO = np.zeros((len(codes_BF), W_FO.shape[1]))
    for i in range(0, len(W_FO), _PART):
        sums_BO += codes_BF[:, i : i + _PART] @ wide(W_FO[i : i + _PART])
    return sums_BO


def relu(pre_BF: Array) -> tuple[Array, Array]:
    """(codes, distance) of ReLU."""
    return np.maximum(pre_BF, 0.0), np.full_like(pre_BF, np.inf)


def jump_relu(pre_BF: Array, threshold_F: Array) -> tuple[Array, Array]:
    """(codes, distance) of ReLU where pre > threshold, strictly."""
    codes_BF = np.where(pre_BF > threshold_F, np.maximum(pre_BF, 0.0), 0.0)
    return codes_BF, np.where(threshold_F > 0, _relative(pre_BF - threshold_F, pre_BF), np.inf)


def top_k(pre_BF: Array, k: int) -> tuple[Array, Array]:
    """(codes, distance) of the k largest after ReLU."""
    place_BK = np.argpartition(-pre_BF, k - 1, axis=1)[:, :k]
    codes_BF = np.zeros_like(pre_BF)
    np.put_along_axis(codes_BF, place_BK, np.maximum(np.take_along_axis(pre_BF, place_BK, 1), 0.0), 1)
    if k == pre_BF.shape[1]:
        return codes_BF, np.full_like(pre_BF, np.inf)
    sorted_BK = -np.partition(-pre_BF, k, axis=1)[:, : k + 1]
    edge_B1 = (sorted_BK[:, :k].min(1) + sorted_BK[:, k])[:, None] / 2
    return codes_BF, np.where(edge_B1 > 0, _relative(pre_BF - edge_B1, pre_BF), np.inf)


def gated(product_BF: Array, b_gate_F: Array, r_mag_F: Array, b_mag_F: Array) -> tuple[Array, Array]:
    """(codes, distance) of [x W + b_gate > 0] * ReLU(exp(r_mag) x W + b_mag)."""
    gate_BF = product_BF + b_gate_F
    size_BF = np.maximum(product_BF * np.exp(r_mag_F) + b_mag_F, 0.0)
    return np.where(gate_BF > 0, size_BF, 0.0), _relative(gate_BF, product_BF)


def _relative(gap_BF: Array, pre_BF: Array) -> Array:
    scale_B1 = np.sqrt(np.square(pre_BF).mean(1, keepdims=True)) + 1e-300
    ratio: Array = np.abs(gap_BF) / scale_B1
    return ratio
