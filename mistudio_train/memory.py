"""How much memory a run needs and how much there is: from facts and config, without torch.

Estimates are of the host; a GPU's memory is asked of the driver elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from mistudio_core.errors import LimitReached
from mistudio_torch.lm.facts import ModelFacts
from mistudio_train.config import TrainConfig

_BASE_BYTES = 700_000_000
"""Interpreter, torch and transformers."""


def required_bytes(facts: ModelFacts, config: TrainConfig) -> int:
    """Peak memory of a run: kept blocks, SAE with gradients and moments, one block of activations, one batch."""
    layer = min(config.layer_of(facts.total_layers), facts.total_layers - 1)
    item = 4 if config.dtype in ("auto", "float32") else 2
    model = facts.parameters_up_to(layer) * item
    sae = 2 * facts.hidden_size * config.hidden_dim * 4 * 4
    activations = 4 * config.block_tokens * facts.hidden_size * 4
    batch = 4 * config.sae_batch_tokens * config.hidden_dim * 4
    length = config.max_sequence_length or min(512, facts.max_positions)
    forward = 12 * config.batch_size * length * facts.hidden_size * 4
    return _BASE_BYTES + model + sae + activations + batch + forward


def available_bytes() -> int:
    """Memory that a process could still take: the host's, or the container's where that is less."""
    free = 1 << 62
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def check_memory(facts: ModelFacts, config: TrainConfig) -> None:
    """Raises LimitReached (INSUFFICIENT_MEMORY) where the run would not fit."""
    required, available = required_bytes(facts, config), available_bytes()
    if required > available:
        raise LimitReached(
            f"The run needs {required / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free. "
            "Lower hidden_dim, sae_batch_tokens or max_sequence_length, or choose an earlier layer.",
            reason="INSUFFICIENT_MEMORY",
            facts={"required_bytes": required, "available_bytes": available},
        )
