"""Reads the residual stream after a block, and stops the model there.

Shapes: B sequences, T tokens with padding, D model width. Knows modules, not files or corpora.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _StopForward(Exception):
    """Ends a forward pass once the hook has what it wants; never leaves `residual_after`."""


@torch.inference_mode()
def residual_after(model: nn.Module, block: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Output of `block`, float32 (B, T, D); what comes after it is not computed.

    Rows are independent sequences; `mask_BT` is 1 for tokens and 0 for padding, whose output means nothing.
    """
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _StopForward

    handle = block.register_forward_hook(hook)
    try:
        model(input_ids=ids_BT, attention_mask=mask_BT)
    except _StopForward:
        pass
    finally:
        handle.remove()
    return seen[0].float()
