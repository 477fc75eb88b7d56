"""Weights in 4 bits (NF4) or 8 bits through bitsandbytes, quantised as they are read.

Only linear layers inside of blocks can be; what else a block multiplies with is refused by name, before
any weight is read. No gradient ever runs through the language model here, so there is nothing for
gradient checkpointing to save. bitsandbytes is imported in this file alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mistudio_core.errors import Unsupported

QUANTIZATIONS = ("none", "nf4", "int8")
_LOGGERS = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")
SMALL = 0.02
"""Share of all matrices in blocks that may stay as they are."""


def check_quantization(quantization: str, model: nn.Module, blocks: nn.Module) -> None:
    """Raises Unsupported, naming the largest such module, where a part of the blocks that matters cannot be quantised.

    `model` needs no weights. A router or the like, smaller than SMALL of all matrices, may stay as it is.
    """
    if quantization == "none":
        return
    paths = {id(module): path for path, module in model.named_modules()}
    sizes = {paths[id(m)]: _in_matrices(m) for m in blocks.modules()}
    left = {path: size for path, size in sizes.items() if size and _obstacle(model, path)}
    if sum(left.values()) > SMALL * sum(sizes.values()):
        path = max(left, key=lambda p: left[p])
        raise Unsupported(
            f"quantization {quantization} of {path}",
            why=_obstacle(model, path),
            instead="Load the model in bfloat16, without quantization.",
        )


def _in_matrices(module: nn.Module) -> int:
    """Weights of a module itself that are in matrices."""
    return sum(p.numel() for p in module.parameters(recurse=False) if p.dim() >= 2)


def _obstacle(model: nn.Module, path: str) -> str:
    """Why the matrices of a module cannot be quantised; empty where they can be, or are a table of vectors."""
    from transformers.pytorch_utils import Conv1D

    module = model.get_submodule(path)
    if isinstance(module, nn.Embedding):
        return ""
    if type(module) is not nn.Linear and not isinstance(module, Conv1D):
        return f"it is a {type(module).__name__}, not a linear layer"
    if set(path.split(".")).intersection(getattr(model, "_keep_in_fp32_modules", None) or ()):
        return "transformers keeps it in float32, as it overflows otherwise"
    return ""


def quantization_config(
    quantization: str, dtype: torch.dtype, *, partly_on_cpu: bool = False, left: Sequence[str] = ()
) -> Any:
    """The BitsAndBytesConfig of a quantization that computes in `dtype`; None for `none`. `left` stay as they are."""
    if quantization == "none":
        return None
    _silence()
    import transformers

    make: Any = transformers.BitsAndBytesConfig
    common = {"llm_int8_skip_modules": list(left), "llm_int8_enable_fp32_cpu_offload": partly_on_cpu}
    if quantization == "int8":
        return make(load_in_8bit=True, **common)
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        **common,
    )


def settle(model: nn.Module) -> None:
    """Makes quantised layers compute in the format that was asked for, on processors with bf16 products too."""
    for module in model.modules():
        # bitsandbytes would repack them for a bf16 kernel at the first pass, which undoes the second
        # quantisation and takes 16 times a weight's size while it works.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def held_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Everything that a module and those inside of it keep in memory, quantisation's own tables included."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield tensor
        state = getattr(tensor, "quant_state", None)
        for owner in (state, getattr(state, "state2", None)):
            parts = vars(owner).values() if owner is not None else ()
            yield from (part for part in parts if isinstance(part, Tensor))
        for name in ("CB", "SCB"):
            part = getattr(tensor, name, None)
            if isinstance(part, Tensor):
                yield part
    for inner in module.modules():
        state = getattr(inner, "state", None)  # bitsandbytes moves the scales of 8-bit weights there
        for name in ("CB", "SCB"):
            part = getattr(state, name, None)
            if isinstance(part, Tensor):
                yield part


def held_bytes(*modules: nn.Module) -> int:
    """Bytes of memory that modules keep, what they share counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for m in modules for t in held_tensors(m)}
    return sum(storage.nbytes() for place, storage in storages.items() if place)


def _silence() -> None:
    """Keeps bitsandbytes from logging a line for each layer that casts its input, and one for a kernel it misses."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
