"""The neutral file of a trained SAE and the one evaluator that every contestant is measured with.

Tensors: W_enc (F, D), b_enc (F), W_dec (F, D), b_dec (D); `threshold` (F) for activation `threshold`;
b_mag, r_mag (F) for `gated`, where b_enc is the gate's; `input_mean` (D) where inputs are centred.
Header (metadata `neutral`, JSON): activation, k, subtract_b_dec, input_scale, architecture, origin.

    x_n   = (x - input_mean) * input_scale
    pre   = (x_n - b_dec, where subtract_b_dec) W_enc^T + b_enc
    f     = relu(pre) | the k largest of relu(pre) | pre where pre > threshold and pre > 0
            | gated: relu(exp(r_mag) * (pre - b_enc) + b_mag) where pre > 0
    x_hat = (f W_dec + b_dec) / input_scale + input_mean
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.common import open_rows, read_rows, row_order

ACTIVATIONS = ("relu", "topk", "threshold", "gated")
_BATCH_ROWS = 2048
_SAMPLE_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class NeutralSae:
    """A trained SAE of any origin. B rows, D width of the input, F features."""

    tensors: dict[str, Tensor]
    """See the module; float32."""
    header: dict[str, Any]
    """See the module."""

    @property
    def width(self) -> int:
        """Features F."""
        return int(self.tensors["W_enc"].shape[0])

    def pre(self, x_BD: Tensor) -> Tensor:
        """pre_BF of raw activations."""
        t = self.tensors
        x_n_BD = (x_BD - t["input_mean"]) * self.header["input_scale"]
        if self.header["subtract_b_dec"]:
            x_n_BD = x_n_BD - t["b_dec"]
        return torch.addmm(t["b_enc"], x_n_BD, t["W_enc"].t())

    def encode(self, x_BD: Tensor) -> Tensor:
        """Codes f_BF of raw activations."""
        t, pre_BF = self.tensors, self.pre(x_BD)
        kind = self.header["activation"]
        if kind == "relu":
            return pre_BF.relu_()
        if kind == "threshold":
            return pre_BF.relu_().mul_(pre_BF > t["threshold"])
        if kind == "gated":
            magnitude_BF = ((pre_BF - t["b_enc"]) * t["r_mag"].exp() + t["b_mag"]).relu_()
            return magnitude_BF.mul_(pre_BF > 0)
        top = pre_BF.relu_().topk(self.header["k"], dim=1, sorted=False)
        return torch.zeros_like(pre_BF).scatter_(1, top.indices, top.values)

    def decode(self, f_BF: Tensor) -> Tensor:
        """x_hat_BD of codes, in the units of the raw activations."""
        t = self.tensors
        x_hat_BD: Tensor = torch.addmm(t["b_dec"], f_BF, t["W_dec"]) / self.header["input_scale"] + t["input_mean"]
        return x_hat_BD


def read_neutral(path: Path, device: str = "cpu") -> NeutralSae:
    """Reads and checks a neutral file. Raises ValueError."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("neutral", "{}"))
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    header = {"input_scale": 1.0} | header
    if header.get("activation") not in ACTIVATIONS:
        raise ValueError(f"{path.name}: activation {header.get('activation')!r} is none of {', '.join(ACTIVATIONS)}")
    if "subtract_b_dec" not in header:
        raise ValueError(f"{path.name}: the header does not say whether b_dec is subtracted from the input")
    F, D = tensors["W_enc"].shape
    tensors.setdefault("input_mean", torch.zeros(D))
    wanted = {"W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "input_mean": (D,)}
    wanted |= {"threshold": {"threshold": (F,)}, "gated": {"b_mag": (F,), "r_mag": (F,)}}.get(header["activation"], {})
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            raise ValueError(f"{path.name}: {name} must be there with shape {shape}")
    return NeutralSae(tensors={n: t.to(device) for n, t in tensors.items()}, header=header)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Figures on held-out rows."""

    fvu: float
    """sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, the mean over the same rows."""
    l0: float
    """Mean number of non-zero codes of a row."""
    dead: float
    """Share of the features that fire on none of the rows."""
    rows: int
    """How many rows."""


class Evaluator:
    """Sums over batches of rows, in float64."""

    def __init__(self, sae: NeutralSae) -> None:
        """For one SAE."""
        self.sae = sae
        D = sae.tensors["b_dec"].shape[0]
        self.rows, self.error, self.squares, self.active = 0, 0.0, 0.0, 0
        self.sum_D = torch.zeros(D, dtype=torch.float64)
        self.shift_D: Tensor | None = None
        self.fired_F = torch.zeros(sae.width, dtype=torch.bool)

    @torch.no_grad()
    def add(self, x_BD: Tensor) -> None:
        """Adds rows."""
        x_BD = x_BD.to(self.sae.tensors["b_dec"].device)
        f_BF = self.sae.encode(x_BD)
        self.error += float((x_BD - self.sae.decode(f_BF)).double().square().sum())
        x_64BD = x_BD.double().cpu()
        if self.shift_D is None:
            self.shift_D = x_64BD.mean(0)  # sums about a point nearby keep the variance exact
        centred_BD = x_64BD - self.shift_D
        self.rows += len(x_BD)
        self.sum_D += centred_BD.sum(0)
        self.squares += float(centred_BD.square().sum())
        self.active += int(torch.count_nonzero(f_BF))
        self.fired_F |= (f_BF != 0).any(0).cpu()

    def result(self) -> Evaluation:
        """The figures so far."""
        variance = self.squares - float(self.sum_D.square().sum()) / self.rows
        dead = 1.0 - int(self.fired_F.sum()) / self.sae.width
        return Evaluation(fvu=self.error / variance, l0=self.active / self.rows, dead=dead, rows=self.rows)


def evaluate(sae: NeutralSae, acts: Path, heldout_rows: int) -> Evaluation:
    """The figures over the last `heldout_rows` rows of a file."""
    rows, n_train = open_rows(acts, heldout_rows)
    evaluator = Evaluator(sae)
    for first in range(n_train, len(rows), _BATCH_ROWS):
        evaluator.add(torch.from_numpy(read_rows(acts, rows, first, min(first + _BATCH_ROWS, len(rows)))))
    return evaluator.result()


@torch.no_grad()
def with_l0(sae: NeutralSae, acts: Path, heldout_rows: int, l0: float) -> NeutralSae:
    """The same SAE with the one threshold at which l0 features fire on a training row, mean over a sample.

    For the batch top-k family: a threshold that is followed during training lags behind in a short
    run, which would compare different sparsities. Raises ValueError for other SAEs.
    """
    if sae.header["activation"] != "threshold":
        raise ValueError("only an SAE with a threshold can be brought to another L0")
    rows, n_train = open_rows(acts, heldout_rows)
    sample = sorted(row_order(n_train, min(_SAMPLE_ROWS, n_train), seed=0).tolist())
    x_BD = torch.from_numpy(rows[sample]).to(sae.tensors["b_dec"].device)
    scores = torch.cat([sae.pre(x_BD[i : i + 256]).relu_().flatten() for i in range(0, len(x_BD), 256)])
    place = scores.numel() - round(l0 * len(x_BD))
    threshold = scores.kthvalue(place).values
    tensors = sae.tensors | {"threshold": threshold.expand(sae.width)}
    return NeutralSae(tensors=tensors, header=sae.header)
