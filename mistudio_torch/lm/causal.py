"""A causal language model whole, with its head: loaded, read and written at hooks, its head apart.

For figures that need predictions; training reads a model cut off after a block (`load`). Shapes:
B sequences, T positions, D width, N real tokens, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_core.secret import Secret
from mistudio_torch.lm.facts import ModelFacts, parse_config
from mistudio_torch.lm.hookable import hooks_of
from mistudio_torch.lm.hookpoints import HookPoint
from mistudio_torch.lm.hooks import Tap
from mistudio_torch.lm.load import taps_of, truncated_config
from mistudio_torch.lm.reader import TensorReader
from mistudio_torch.lm.source import resolve
from mistudio_torch.lm.weights import Blueprint, Placement, head_paths, stored_tensors

_WORKING_BYTES = 700_000_000
"""What passes of a few thousand positions and the head's rows take beside the weights."""
_QUANTISED_BYTES = {"nf4": 0.53, "int8": 1.01}
"""Bytes of a quantised weight, its scales included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLM:
    """A whole model that predicts the next token."""

    model: nn.Module
    """In eval mode, without gradients."""
    head: nn.Module
    """What turns the last hidden state into logits."""
    facts: ModelFacts
    """Facts of the model."""
    device: torch.device
    """Where ids go in."""
    pad_id: int
    """Token for padding; masked, so any token does."""
    taps: Mapping[str, Tap]
    """Hook name -> what is read and replaced for it."""


def load_causal_lm(
    name: str,
    hooks: Sequence[HookPoint],
    *,
    placement: Placement | None = None,
    token: Secret | None = None,
    cache_dir: Path | None = None,
    model_root: Path | None = None,
    available_bytes: int | None = None,
    watch: Callable[[], None] | None = None,
) -> CausalLM:
    """The whole model with its head, to be read at `hooks`: safetensors only, never its own code.

    With the placement of the model that was trained on, activations are the same. Raises what load_lm does;
    Unsupported for a model without a next-token head or its weights; before any weight is read, LimitReached
    (INSUFFICIENT_MEMORY) where `available_bytes` of the device are given and too few.
    """
    placement = placement or Placement()
    source = resolve(name, token=token, model_root=model_root, cache_dir=cache_dir, watch=watch)
    catalogue = hooks_of(source)
    facts = catalogue.facts
    config, shape = parse_config(name, source.path("config.json").read_bytes())
    if reason := why_not_causal(facts, config):
        raise reason
    _check_memory(facts, placement, available_bytes)
    blueprint = Blueprint(name, truncated_config(config, shape, None), shape, causal=True)
    tensors = stored_tensors(source, TensorReader(watch))
    try:
        model = blueprint.load(tensors, placement)
    except InvalidInput as error:
        if any(f"{path}.weight" not in tensors for path in head_paths(blueprint.model)):
            raise _no_head(facts) from error
        raise
    taps = taps_of(base_of(model), catalogue, hooks, facts.total_layers - 1)
    return causal_of(model, facts, device=placement.device, pad_id=config.get("pad_token_id"), taps=taps)


def causal_of(
    model: Any,
    facts: ModelFacts,
    *,
    device: str | torch.device = "cpu",
    pad_id: object = None,
    taps: Mapping[str, Tap] | None = None,
) -> CausalLM:
    """A causal model of transformers, loaded already. Raises Unsupported where it has no head."""
    head = model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
    if not isinstance(head, nn.Module):
        raise _no_head(facts)
    model.config.use_cache = False
    pad = pad_id if isinstance(pad_id, int) and 0 <= pad_id < facts.vocab_size else 0
    return CausalLM(model=model, head=head, facts=facts, device=torch.device(device), pad_id=pad, taps=taps or {})


def base_of(model: nn.Module) -> nn.Module:
    """The part of a model with a head that has the blocks: what hooks are found in."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def why_not_causal(facts: ModelFacts, config: Mapping[str, Any]) -> Unsupported | None:
    """The refusal of a model that does not predict the next token, from its config alone; None where it may."""
    from transformers.models.auto import modeling_auto

    kind = facts.architecture
    both_ways = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    both_ways = both_ways or kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (both_ways and not config.get("is_decoder")):
        return _no_head(facts)
    return None


def causal_bytes(facts: ModelFacts, placement: Placement) -> int:
    """Bytes that the whole model takes on its device, with room for its passes."""
    packed = facts.total_layers * facts.linear_parameters if placement.quantization != "none" else 0
    plain = (facts.parameters - packed) * placement.dtype.itemsize
    return int(plain + packed * _QUANTISED_BYTES.get(placement.quantization, 0.0)) + _WORKING_BYTES


def _check_memory(facts: ModelFacts, placement: Placement, available_bytes: int | None) -> None:
    needed = causal_bytes(facts, placement)
    if available_bytes is not None and needed > available_bytes:
        raise LimitReached(
            f"The whole of {facts.model_name} with its head takes {needed / 1e9:.1f} GB, and "
            f"{available_bytes / 1e9:.1f} GB are free.",
            reason="INSUFFICIENT_MEMORY",
            facts={"required_gb": round(needed / 1e9, 1), "available_gb": round(available_bytes / 1e9, 1)},
        )


@dataclass(slots=True)
class Replacement:
    """Reads a tap at real tokens and, where given, puts something else there; for one forward pass."""

    tap: Tap
    """What is read and replaced: a tensor (B, T, D), or a tuple that begins with one."""
    real_BT: Tensor
    """bool: where to read and write."""
    instead_ND: Tensor | None = None
    """What to put there, row by row; None to leave it."""
    _seen: list[Tensor] = field(default_factory=list)

    @property
    def seen_ND(self) -> Tensor:
        """float32: what was there at real tokens. Raises Unsupported where the module was not run."""
        if not self._seen:
            raise Unsupported("this hook", why="a forward pass does not run it", instead="Choose another hook.")
        return self._seen[-1]

    def register(self) -> Callable[[], None]:
        """Puts the hook on the module; returns what takes it off."""
        if self.tap.of_input:
            return self.tap.module.register_forward_pre_hook(self._before, with_kwargs=True).remove
        return self.tap.module.register_forward_hook(lambda _module, _inputs, output: self._changed(output)).remove

    def _before(
        self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (self._changed(inputs[0]), *inputs[1:]), named
        key = "hidden_states" if "hidden_states" in named else next(iter(named))
        return inputs, named | {key: self._changed(named[key])}

    def _changed(self, value: Any) -> Any:
        whole_BTD: Tensor = value[0] if isinstance(value, tuple | list) else value
        if whole_BTD.shape[:2] != self.real_BT.shape:
            shape = tuple(whole_BTD.shape)
            raise Unsupported("this hook", why=f"it gives {shape}, no vector a token", instead="Choose another hook.")
        real_BT = self.real_BT.to(whole_BTD.device)
        self._seen[:] = [whole_BTD[real_BT].float()]
        if self.instead_ND is None:
            return value
        changed_BTD = whole_BTD.clone()
        changed_BTD[real_BT] = self.instead_ND.to(whole_BTD)
        return (changed_BTD, *value[1:]) if isinstance(value, tuple | list) else changed_BTD


class PassHook(Protocol):
    """Something that takes part in one forward pass."""

    def register(self) -> Callable[[], None]:
        """Puts it on the model; returns what takes it off."""


class _StopForward(Exception):
    """Ends a forward pass before the head; never leaves this module."""


@torch.inference_mode()
def hidden_before_head(causal: CausalLM, ids_BT: Tensor, mask_BT: Tensor, hooks: Sequence[PassHook] = ()) -> Tensor:
    """What the head gets, (B, T, D), with `hooks` in place; the head is not run. Raises Unsupported."""
    seen: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])
        raise _StopForward

    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.register())
        stack.callback(causal.head.register_forward_pre_hook(stop).remove)
        try:
            causal.model(input_ids=ids_BT, attention_mask=mask_BT)
        except _StopForward:
            return seen[0]
    raise _no_head(causal.facts)


@torch.inference_mode()
def logits_of(causal: CausalLM, hidden_RD: Tensor) -> Tensor:
    """(R, V) logits of hidden states, as the model itself makes them: with its scaling or capping after the head.

    The model runs on a single token and its head gets `hidden_RD` instead, so that whatever the architecture
    does to logits is done.
    """
    ids_11 = torch.zeros(1, 1, dtype=torch.int64, device=causal.device)
    handle = causal.head.register_forward_pre_hook(lambda _module, inputs: (hidden_RD[None], *inputs[1:]))
    try:
        logits_1RV: Tensor = causal.model(input_ids=ids_11, attention_mask=torch.ones_like(ids_11)).logits
    finally:
        handle.remove()
    return logits_1RV[0]


def is_causal(causal: CausalLM) -> bool:
    """Whether the model's output at a token is the same whatever comes after it; tried on eight."""
    ids_1T = torch.arange(8, device=causal.device)[None] % causal.facts.vocab_size
    other_1T = ids_1T.clone()
    other_1T[0, -1] = 0
    mask_1T = torch.ones_like(ids_1T)
    one_TD, two_TD = (hidden_before_head(causal, ids, mask_1T)[0, :-1] for ids in (ids_1T, other_1T))
    # The outliers of 8-bit products are those of all tokens together.
    tolerance = 0.05 if getattr(causal.model, "is_quantized", False) else max(1e-5, 4 * torch.finfo(one_TD.dtype).eps)
    return bool((one_TD.float() - two_TD.float()).norm() <= tolerance * one_TD.float().norm())


def _no_head(facts: ModelFacts) -> Unsupported:
    return Unsupported(
        f"measuring loss recovered on {facts.model_name}",
        why=f"a model of architecture {facts.architecture} has no head here that predicts the next token",
        instead="It is left out of the result.",
    )
