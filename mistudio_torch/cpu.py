"""What makes CPUs faster without changing what is computed: oneDNN's float32 products, and memory that is kept.

oneDNN is often twice as fast as what torch takes by itself; numbers are float32 throughout, only the
order of sums differs, unless bfloat16 products are asked for. Nothing here is used on a GPU.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mistudio_torch.tokens import ROWS

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_FEWEST_ROWS = 64
_LARGEST, _SPARE = 64 << 20, 256 << 20
"""Arrays up to this many bytes are taken from kept memory; of which at most so many bytes are kept unused."""


def keep_memory() -> bool:
    """Makes the process keep freed memory for the next array instead of giving it back after every operation.

    Pages that come new from the system are cleared one by one, which took a third of the time of a small
    model's passes. For glibc's malloc; False where there is none and nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP, _LARGEST)) and bool(mallopt(_TRIM, _SPARE))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, bfloat16: bool = False) -> Tensor:
    """`x @ weight.T + bias` for float32 on a CPU, without a gradient. x (..., I), weight (O, I), bias (O,).

    With `bfloat16` both sides and their product are rounded to it (relative error 0.003), sums are float32.

    Rows are filled up to a multiple of 128: oneDNN keeps what it prepares for every number of rows that it
    meets, some hundred MB over a corpus of all lengths.
    """
    flat_NI = x.reshape(-1, x.shape[-1])
    missing = -len(flat_NI) % ROWS
    filled_MI = functional.pad(flat_NI, (0, 0, 0, missing)) if missing else flat_NI
    product = torch.ops.mkldnn._linear_pointwise
    if bfloat16:
        result: Tensor = product(filled_MI.bfloat16(), weight.bfloat16(), None, "none", [], "").float()
        result = result if bias is None else result.add_(bias)
    else:
        result = product(filled_MI, weight, bias, "none", [], "")
    return result[: len(flat_NI)].view(*x.shape[:-1], len(weight))


@functools.cache
def has_fast_linear() -> bool:
    """Whether this build of torch has the operator, tried once on a small product."""
    x_34, weight_24 = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(2, 4)
    try:
        return torch.equal(linear(x_34, weight_24), x_34 @ weight_24.T)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


@contextmanager
def fast_linear(*, bfloat16: bool = False) -> Iterator[None]:
    """Every float32 linear layer that runs on the CPU inside goes through `linear`; for this thread alone."""
    if not has_fast_linear():
        yield
        return
    with _FastLinear(bfloat16):
        yield


class _FastLinear(TorchFunctionMode):
    """Replaces torch's linear, and the addmm of GPT-2's Conv1D, where no gradient is wanted."""

    def __init__(self, bfloat16: bool) -> None:
        super().__init__()
        self._bfloat16 = bfloat16

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and not kwargs and _fits(*args):
            return linear(*args, bfloat16=self._bfloat16)
        if func is torch.addmm and not kwargs and len(args) == 3 and args[0].dim() == 1:
            bias_O, x_NI, weight_IO = args
            if _fits(x_NI, weight_IO.t(), bias_O):
                return linear(x_NI, weight_IO.t(), bias_O, bfloat16=self._bfloat16)
        return func(*args, **(kwargs or {}))


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether these are plain float32 tensors on the CPU, of which no gradient is kept."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return False
    plain = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.layout == torch.strided for t in given)
    return plain and weight.dim() == 2 and x.numel() >= _FEWEST_ROWS * x.shape[-1] > 0
