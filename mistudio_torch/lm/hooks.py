"""Reads what modules of a model give or get in one forward pass, and stops the model after the last of them.

Shapes: B sequences, T tokens with padding, N kept tokens, D width of a hook. Knows modules, not
names, files or corpora.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mistudio_core.errors import Unsupported


@dataclass(frozen=True, kw_only=True, slots=True)
class Tap:
    """A module to read, and from which side."""

    module: nn.Module
    """What a forward pass runs once."""
    of_input: bool = False
    """Whether what goes into it is read, not what comes out."""


class _StopForward(Exception):
    """Ends a forward pass once every tap was read; never leaves this module."""


@torch.inference_mode()
def capture(
    model: nn.Module,
    taps: Mapping[str, Tap],
    ids_BT: Tensor,
    mask_BT: Tensor | None,
    keep_N: Tensor | None = None,
) -> dict[str, Tensor]:
    """What each tap reads, (B, T, D), or (N, D) at the positions `keep_N` of the B x T tokens; as the model gives it.

    `mask_BT` is 1 for tokens and 0 for padding at the right; None where there is none. What comes after the
    last tap is not computed. Raises Unsupported for a tap that does not give a vector a token, once a pass.
    """
    seen: dict[str, Tensor] = {}

    def read(name: str, value: Any) -> None:
        if name in seen:
            raise _refused(name, "a forward pass runs it more than once")
        x_BTD = value[0] if isinstance(value, tuple | list) and value else value
        if not isinstance(x_BTD, Tensor) or x_BTD.dim() != 3 or x_BTD.shape[:2] != ids_BT.shape:
            raise _refused(name, f"it gives {_shown(x_BTD)}, not one vector for each of {tuple(ids_BT.shape)} tokens")
        last = len(seen) + 1 == len(taps)
        if keep_N is not None:
            x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
            # Without padding or special tokens, every position is kept in order.
            everything = last and len(keep_N) == len(x_ND)
            seen[name] = x_ND if everything else x_ND.index_select(0, keep_N.to(x_ND.device))
        else:
            seen[name] = x_BTD if last else x_BTD.clone()  # later modules may write into it
        if last:
            raise _StopForward

    with ExitStack() as stack:
        for name, tap in taps.items():
            stack.callback(_register(tap, name, read).remove)
        try:
            model(input_ids=ids_BT, attention_mask=mask_BT)
        except _StopForward:
            return {name: seen[name] for name in taps}
    name = next(name for name in taps if name not in seen)
    raise _refused(name, "a forward pass does not run it")


def _register(tap: Tap, name: str, read: Any) -> Any:
    """Puts a hook on a module."""

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        read(name, inputs[0] if inputs else named.get("hidden_states", next(iter(named.values()), None)))

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        read(name, output)

    if tap.of_input:
        return tap.module.register_forward_pre_hook(before, with_kwargs=True)
    return tap.module.register_forward_hook(after)


def residual_after(model: nn.Module, block: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Output of `block`, float32 (B, T, D); what comes after it is not computed."""
    return capture(model, {"block": Tap(module=block)}, ids_BT, mask_BT)["block"].float()


def _refused(name: str, why: str) -> Unsupported:
    return Unsupported(f"hook {name}", why=why, instead="Choose another hook of `mistudio models hooks MODEL`.")


def _shown(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
