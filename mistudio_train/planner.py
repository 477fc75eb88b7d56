"""Whether a run fits, and the settings that change least and do: refuses before anything is loaded.

`check_memory` refuses, `fit` finds settings, `proposal` says them. What a run takes is in
`memory_plan`. Nothing is applied here: callers decide, and say what they changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mistudio_core.errors import LimitReached
from mistudio_core.gpus import GB
from mistudio_core.hostmemory import resident_bytes
from mistudio_torch.lm.facts import ModelFacts
from mistudio_train.config import TrainConfig
from mistudio_train.memory_plan import MemoryPlan, Room, Settings, asked_of, plan, room_of

LEAST_LENGTH = 64
"""Shortest sequences, tokens, that the search proposes."""


def candidates(asked: Settings, *, fixed: frozenset[str] = frozenset()) -> Iterator[Settings]:
    """Settings in the order in which they are tried: what changes least first.

    Batch size changes no result, so it gives way first; then the number format of the model's weights
    (bfloat16, 8 bits, 4 bits); last the length of sequences, which takes context away. `fixed` names what
    may not change: batch_size, max_sequence_length, dtype.
    """
    lengths = _halves(asked.max_sequence_length, LEAST_LENGTH, fixed="max_sequence_length" in fixed)
    batches = _halves(asked.batch_size, 1, fixed="batch_size" in fixed)
    formats = ["float32", "bfloat16", "int8", "nf4"]
    coarser = formats[max(1, formats.index(asked.precision) + 1) :] if asked.precision in formats else formats[2:]
    precisions = [asked.precision] if "dtype" in fixed else [asked.precision, *coarser]
    for length in lengths:
        for precision in precisions:
            for batch in batches:
                yield Settings(batch_size=batch, max_sequence_length=length, precision=precision)


def _halves(most: int, least: int, *, fixed: bool) -> list[int]:
    """`most`, then the powers of two below it, down to `least`."""
    if fixed:
        return [most]
    lower = [1 << n for n in reversed(range(max(most - 1, 1).bit_length())) if least <= 1 << n < most]
    return [most, *lower]


def fit(
    facts: ModelFacts, config: TrainConfig, room: Room, *, fixed: frozenset[str] = frozenset()
) -> tuple[Settings, MemoryPlan] | None:
    """The first of `candidates` that fits, with its plan; None where none does."""
    asked = asked_of(facts, config, on_gpu=room.on_gpu)
    for settings in candidates(asked, fixed=fixed):
        planned = plan(facts, config, on_gpu=room.on_gpu, settings=settings)
        if room.holds(planned):
            return settings, planned
    return None


def smallest(facts: ModelFacts, config: TrainConfig, *, on_gpu: bool) -> MemoryPlan:
    """The plan that takes least at the asked sequence length."""
    asked = asked_of(facts, config, on_gpu=on_gpu)
    tried = candidates(asked, fixed=frozenset({"max_sequence_length"}))
    return min((plan(facts, config, on_gpu=on_gpu, settings=s) for s in tried), key=lambda p: p.device_bytes)


def check_memory(facts: ModelFacts, config: TrainConfig, device: str = "cpu:0") -> MemoryPlan:
    """The plan of the run that this process is about to make on its device.

    What the process holds already is part of the plan, so it counts as free. Raises LimitReached
    (INSUFFICIENT_MEMORY) where the run would not fit now.
    """
    room = room_of(device)
    room = replace(room, host_bytes=room.host_bytes + resident_bytes())
    planned = plan(facts, config, on_gpu=room.on_gpu)
    if not room.holds(planned):
        raise refusal(facts, config, planned, room)
    return planned


def refusal(facts: ModelFacts, config: TrainConfig, planned: MemoryPlan, room: Room) -> LimitReached:
    """The error of a run that does not fit: what it needs, what there is, and what would fit."""
    on_host = planned.host_bytes > room.host_bytes
    required = planned.host_bytes if on_host else planned.gpu_bytes
    available = room.host_bytes if on_host else (room.gpu_bytes or 0)
    return LimitReached(
        f"Not enough memory on {'the host' if on_host and room.on_gpu else room.name}. Required: {required / GB:.1f} "
        f"GB, available: {available / GB:.1f} GB. {proposal(facts, config, room)}",
        reason="INSUFFICIENT_MEMORY",
        facts={
            "required_gb": round(required / GB, 1),
            "available_gb": round(available / GB, 1),
            "required_bytes": required,
            "available_bytes": available,
        },
    )


def proposal(facts: ModelFacts, config: TrainConfig, room: Room) -> str:
    """What to do about a run that does not fit, one sentence."""
    found = fit(facts, config, room)
    if found is None:
        least = smallest(facts, config, on_gpu=room.on_gpu)
        return (
            f"With every saving at this sequence length it still takes {least.device_bytes / GB:.1f} GB: choose an "
            "earlier layer, lower hidden_dim or sae_batch_tokens, or take a larger device."
        )
    changes = found[0].changes(asked_of(facts, config, on_gpu=room.on_gpu))
    return f"It fits with {in_words(changes)}."


def in_words(changes: Mapping[str, object]) -> str:
    """Changed fields for people: `batch_size 4, enable_4bit true`."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in changes.items())
