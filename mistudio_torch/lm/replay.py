"""The blocks before a hook, run once: later passes over the same tokens get what they gave then.

For passes that differ at one hook only, all that comes before it is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mistudio_torch.lm.causal import CausalLM, hidden_before_head
from mistudio_torch.lm.hooks import Tap

_TRIED = 8


def blocks_before(causal: CausalLM, tap: Tap) -> list[nn.Module]:
    """The blocks that have ended when `tap` is read, in order; none where it is in no list of blocks.

    None either where later blocks need more of them than the last one's output (shared keys and values, for
    example): tried on eight tokens, which must come out the same.
    """
    replay = Replay(_listed_before(causal.model, tap))
    ids_1T = torch.arange(_TRIED, device=causal.device)[None] % causal.facts.vocab_size
    try:
        whole, again = (hidden_before_head(causal, ids_1T, torch.ones_like(ids_1T), [replay]) for _ in range(2))
    except Exception:  # whatever a block says that misses another one's work
        return []
    return replay.blocks if torch.equal(whole, again) else []


def _listed_before(model: nn.Module, tap: Tap) -> list[nn.Module]:
    for blocks in (m for m in model.modules() if isinstance(m, nn.ModuleList)):
        for number, block in enumerate(blocks):
            if tap.module is block:
                return list(blocks[: number + (not tap.of_input)])
            if any(tap.module is part for part in block.modules()):
                return list(blocks[:number])
    return []


class Replay:
    """The first pass that it is registered for keeps what the last of `blocks` gives; in later ones none is run."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        """`blocks` in their order, one after the other; empty for none, which changes nothing."""
        self.blocks = blocks
        self._given: Any = None

    def register(self) -> Callable[[], None]:
        """Ready for one pass; returns what ends it."""
        if not self.blocks:
            return lambda: None
        if self._given is None:
            return self.blocks[-1].register_forward_hook(self._keep).remove
        with ExitStack() as stack:
            for block in self.blocks:
                stack.callback(_restore, block, block.__dict__.get("forward"))
                block.forward = self._again
            return stack.pop_all().close

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._given = _copied(output)

    def _again(self, *_inputs: Any, **_named: Any) -> Any:
        return _copied(self._given)


def _restore(block: nn.Module, forward: Any) -> None:
    """`forward` None where it is the class's own; accelerate sets others."""
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def _copied(output: Any) -> Any:
    """Its hidden states copied: what comes later may write into them."""
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)((output[0].clone(), *output[1:]))
