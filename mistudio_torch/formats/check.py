"""Whether an imported SAE computes what its origin does, and whether it fits activations that someone has.

The first compares our codes and reconstructions with the origin's formula in float64; the second is the
fraction of variance unexplained. Reads no SAE files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio_core.errors import InvalidInput
from mistudio_torch.formats.base import Array, Found, Origin
from mistudio_torch.metrics import MetricAccumulator
from mistudio_torch.sae import Sae, SparseCodes

TOLERANCE = 1e-4
"""Largest relative error of codes and of reconstructions. Our weights are float32, of a file of any number format."""
MAX_FVU = 0.9
"""An SAE that explains less than a tenth of the variance does not belong to the activations."""
Rows = np.ndarray[Any, np.dtype[np.float32]]
"""Float32 activations."""
_ROWS = 32
_SCALES = (0.25, 0.5, 1.0, 2.0)
_FIT_ROWS = 4096
_FIT_COMPARED = 64
_BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How near our SAE is to the origin's formula."""

    rows: int
    """Rows that were compared."""
    codes_error: float
    """||f - f_origin|| / ||f_origin||, without codes within TOLERANCE of where they jump."""
    reconstruction_error: float
    """||y - y_origin|| / ||y_origin|| of the same codes."""
    l0: float
    """Mean features that fire on these rows; 0 would show nothing of the encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How an SAE does on activations."""

    rows: int
    """Rows that were used, evenly spaced."""
    fvu: float
    """Fraction of variance unexplained, docs/metrics.md."""
    l0: float
    """Mean features that fire on a row."""
    dead_features: int
    """Features that fired on no row."""


def agreement(found: Found, x_BI: Array | Rows | None = None) -> Agreement:
    """Compares on rows of `x_BI`, or on random ones. Raises InvalidInput where the SAE computes something else."""
    x_BI = random_rows(found.sae) if x_BI is None else x_BI
    x = torch.from_numpy(x_BI.astype(np.float32))
    return compared(found.sae, found.origin, x, found.kind)


def compared(sae: Sae, origin: Origin, x_BI: torch.Tensor, kind: str) -> Agreement:
    """See `agreement`."""
    wide_BI = x_BI.double().numpy()
    y_BO, codes = sae.reconstruct(x_BI)  # makes no gradients
    ours_BF = _dense(codes, len(x_BI), sae.shape.d_sae)
    theirs_BF, distance_BF = origin.encode(wide_BI)
    firm_BF = distance_BF > TOLERANCE  # a code that all but jumps may fall on either side in float32
    codes_error = _error((ours_BF - theirs_BF) * firm_BF, theirs_BF)
    expected_BO = origin.decode(ours_BF, wide_BI)
    reconstruction_error = _error(y_BO.double().numpy() - expected_BO, expected_BO)
    if not (codes_error <= TOLERANCE and reconstruction_error <= TOLERANCE):
        raise InvalidInput(
            f"The SAE does not compute what {kind} computes: relative error {codes_error:.1e} of codes and "
            f"{reconstruction_error:.1e} of reconstructions, allowed is {TOLERANCE:.0e}. Nothing was imported. "
            "Its weights may be too large or too small for float32; check the file.",
            facts={"codes_error": codes_error, "reconstruction_error": reconstruction_error},
        )
    return Agreement(
        rows=len(x_BI),
        codes_error=codes_error,
        reconstruction_error=reconstruction_error,
        l0=float((ours_BF > 0).sum(1).mean()),
    )


def random_rows(sae: Sae) -> Array:
    """Rows about the output's bias, at four scales around the one at which biases and thresholds are overcome."""
    generator = np.random.default_rng(0)
    state = {name: t.double().numpy() for name, t in sae.state_dict().items() if t.ndim == 1}
    width = sae.shape.d_in
    centre_I = state["b_dec_D"] if sae.shape.d_out == width else np.zeros(width)
    norm_F = sae.W_enc_FD.detach().norm(dim=1).double().numpy() + 1e-30
    needed_F = np.abs(state["b_enc_F"]) / norm_F if not centre_I.any() else np.zeros(sae.shape.d_sae)
    if "threshold_F" in state:
        needed_F = np.maximum(needed_F, state["threshold_F"] / norm_F)
    scale = max(float(np.sqrt(np.square(centre_I).mean())), float(np.median(needed_F)))
    rows_BI = generator.standard_normal((_ROWS, width)) * (scale if 0 < scale < 1e30 else 1.0)
    found_BI: Array = centre_I + rows_BI * np.resize(_SCALES, _ROWS)[:, None]
    return found_BI


def read_activations(path: Path, width: int, name: str) -> Rows:
    """Up to 4,096 evenly spaced rows of a .npy file, float32 (N, width). Raises InvalidInput."""
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidInput.field(name, path.name, "a .npy file of numbers", "Save it with numpy.save.") from error
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.dtype.kind != "f" or len(data) < 2:
        raise InvalidInput.field(name, getattr(data, "shape", path.name), "two rows or more of floating-point numbers")
    if data.shape[1] != width:
        raise InvalidInput.field(
            name, list(data.shape), f"rows of {width} values, the SAE's width", "Take the activations of its hook."
        )
    rows = np.array(data[:: max(1, len(data) // _FIT_ROWS)][:_FIT_ROWS], np.float32)
    if not np.isfinite(rows).all():
        raise InvalidInput.field(name, path.name, "finite numbers", "Leave out rows with NaN or infinity.")
    return rows


def fit(found: Found, x_NI: Rows, y_NO: Rows, *, max_fvu: float = MAX_FVU) -> Fit:
    """Figures on activations. Raises InvalidInput where the SAE leaves more than `max_fvu` unexplained.

    Codes and reconstructions of the first 64 rows are compared with the origin's, too.
    """
    agreement(found, x_NI[:_FIT_COMPARED])
    sae = found.sae
    sums = MetricAccumulator(sae.shape.d_out, sae.shape.d_sae)
    for i in range(0, len(x_NI), _BATCH):
        y_hat_BO, codes = sae.reconstruct(torch.from_numpy(np.ascontiguousarray(x_NI[i : i + _BATCH])))
        sums.add(torch.from_numpy(np.ascontiguousarray(y_NO[i : i + _BATCH])), y_hat_BO, codes)
    result = sums.result()
    if not result.fvu <= max_fvu:
        raise InvalidInput(
            f"The SAE leaves {result.fvu:.3g} of the variance of these activations unexplained (allowed is "
            f"{max_fvu:g}; L0 {result.l0:.1f}). Usual reasons: activations of another layer or hook, of another model, "
            "scaled or centred in one place and not in the other, with or without the BOS token. Nothing was imported.",
            facts={"fvu": result.fvu, "l0": result.l0, "max_fvu": max_fvu},
        )
    return Fit(rows=len(x_NI), fvu=result.fvu, l0=result.l0, dead_features=result.dead_features)


def _dense(codes: SparseCodes, rows: int, features: int) -> Array:
    dense_BF = np.zeros((rows, features))
    dense_BF[codes.token_N.numpy(), codes.feature_N.numpy()] = codes.value_N.double().numpy()
    return dense_BF


def _error(difference: Array, expected: Array) -> float:
    """Norm of the difference by that of what is expected; NaN counts as infinite."""
    size, gap = float(np.linalg.norm(expected)), float(np.linalg.norm(difference))
    ratio = gap / size if size > 0 else (0.0 if gap == 0 else float("inf"))
    return ratio if np.isfinite(ratio) else float("inf")
