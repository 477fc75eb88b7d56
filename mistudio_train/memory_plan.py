"""What a run will hold, by part and phase, for the host and the GPU apart; and the room there is.

From config and weight headers alone: nothing is loaded, torch is not imported. The formulas are in
`plan_parts`, the search for settings that fit in `planner`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mistudio_core.gpus import read_gpus
from mistudio_core.hostmemory import available_bytes, has_fast_bfloat16
from mistudio_torch.lm.facts import ModelFacts, block_of
from mistudio_torch.lm.hookpoints import HookPoint
from mistudio_train.config import TrainConfig
from mistudio_train.plan_parts import ITEM_BYTES, PHASES, Part, SaeSize, Workload, parts_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """What a run will hold."""

    workload: Workload
    """What it was made for."""
    parts: tuple[Part, ...]
    """Every part, each in the phases that hold it."""

    def in_phase(self, phase: str) -> tuple[int, int]:
        """(host bytes, GPU bytes) of a phase."""
        held = [p for p in self.parts if phase in p.phases]
        return sum(p.host_bytes for p in held), sum(p.gpu_bytes for p in held)

    @property
    def host_bytes(self) -> int:
        """Peak of the host's memory."""
        return max(self.in_phase(phase)[0] for phase in PHASES)

    @property
    def gpu_bytes(self) -> int:
        """Peak of the GPU's memory; 0 for a run on the CPU."""
        return max(self.in_phase(phase)[1] for phase in PHASES)

    @property
    def peak_phase(self) -> str:
        """The phase of the peak, on the GPU where there is one."""
        place = 1 if self.workload.on_gpu else 0
        return max(PHASES, key=lambda phase: self.in_phase(phase)[place])

    @property
    def device_bytes(self) -> int:
        """Peak of the memory that model and SAEs are in."""
        return self.gpu_bytes if self.workload.on_gpu else self.host_bytes

    @property
    def model_bytes(self) -> int:
        """The language model's weights on its device."""
        weights = [p for p in self.parts if p.name in ("model blocks", "embeddings")]
        return sum(p.gpu_bytes if self.workload.on_gpu else p.host_bytes for p in weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The memory that a run may take on one device."""

    name: str
    """For people: `gpu_0 (NVIDIA L4)`, `RAM`."""
    host_bytes: int
    """Of the host."""
    gpu_bytes: int | None
    """Of the GPU; None for a run on the CPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU's."""
        return self.gpu_bytes is not None

    @property
    def device_bytes(self) -> int:
        """Of the memory that model and SAEs are in."""
        return self.host_bytes if self.gpu_bytes is None else self.gpu_bytes

    def holds(self, planned: MemoryPlan) -> bool:
        """Whether a plan for this kind of device fits."""
        return planned.host_bytes <= self.host_bytes and planned.gpu_bytes <= (self.gpu_bytes or 0)


def room_of(device: str) -> Room:
    """What is free now on a device as a job names it: `cpu:0`, `cuda:1`."""
    host = available_bytes()
    if device.startswith("cpu"):
        return Room(name="RAM", host_bytes=host, gpu_bytes=None)
    number = int(device.partition(":")[2] or 0)
    gpu = next((g for g in read_gpus() if g.index == number), None)
    name = f"gpu_{number} ({gpu.name})" if gpu else f"gpu_{number}"
    return Room(name=name, host_bytes=host, gpu_bytes=gpu.free_bytes if gpu else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What may be changed so that a run fits."""

    batch_size: int
    """Sequences a forward pass; changes no result."""
    max_sequence_length: int
    """Tokens a sequence; shorter ones see less context."""
    precision: str
    """Of the model's weights: float32, bfloat16, float16, int8, nf4."""
    embeddings_on_cpu: bool = False
    """Whether the token embedding stays in the host's memory; changes no result."""

    def changes(self, asked: Settings) -> dict[str, object]:
        """Fields of the request that differ from what was asked, with their values."""
        found: dict[str, object] = {}
        if self.batch_size != asked.batch_size:
            found["batch_size"] = self.batch_size
        if self.max_sequence_length != asked.max_sequence_length:
            found["max_sequence_length"] = self.max_sequence_length
        if self.precision != asked.precision:
            field, value = _PRECISION_FIELDS.get(self.precision, ("dtype", self.precision))
            found[field] = value
        return found


FLOATS = tuple(ITEM_BYTES)
"""Number formats in which a model can compute."""
_PRECISION_FIELDS: dict[str, tuple[str, object]] = {"nf4": ("enable_4bit", True), "int8": ("enable_8bit", True)}


def asked_of(facts: ModelFacts, config: TrainConfig, *, on_gpu: bool) -> Settings:
    """The settings that a configuration asks for. Raises InvalidInput for a length beyond the model's."""
    return Settings(
        batch_size=config.batch_size,
        max_sequence_length=config.sequence_length_of(facts.max_positions),
        precision=_precision(config, on_gpu=on_gpu),
    )


def _precision(config: TrainConfig, *, on_gpu: bool) -> str:
    return _compute(config, on_gpu=on_gpu) if config.quantization == "none" else config.quantization


def _compute(config: TrainConfig, *, on_gpu: bool) -> str:
    return config.dtype if config.dtype != "auto" else "bfloat16" if on_gpu else "float32"


def plan(
    facts: ModelFacts, config: TrainConfig, *, on_gpu: bool = False, settings: Settings | None = None
) -> MemoryPlan:
    """The plan of a run, with other settings than the configuration's where given. Raises InvalidInput."""
    chosen = settings or asked_of(facts, config, on_gpu=on_gpu)
    variants = config.variants(facts.total_layers)
    hooks = {hook.name: _block_of(hook, facts) for variant in variants for hook in variant.hooks}
    width = facts.hidden_size
    sizes = [
        SaeSize(architecture=config.architecture, d_in=width, d_out=width, d_sae=variant.hidden_dim, k=variant.k)
        for variant in variants
    ]
    workload = Workload(
        facts=facts,
        layer=min(max(hooks.values()), facts.total_layers - 1),
        precision=chosen.precision,
        compute=chosen.precision if chosen.precision in FLOATS else _compute(config, on_gpu=on_gpu),
        on_gpu=on_gpu,
        embeddings_on_cpu=chosen.embeddings_on_cpu,
        batch_size=chosen.batch_size,
        length=chosen.max_sequence_length,
        block_tokens=config.block_tokens,
        step_tokens=config.sae_batch_tokens,
        hooks=len(hooks),
        hooks_of_one=max(len(variant.hooks) for variant in variants),
        saes=tuple(sizes),
        processes=config.processes,
        fast_bfloat16=on_gpu or has_fast_bfloat16(),
        whole_model=config.splice_tokens != 0,
    )
    return MemoryPlan(workload=workload, parts=parts_of(workload))


def _block_of(hook: HookPoint, facts: ModelFacts) -> int:
    """The block that a hook needs; the last one for a module outside of blocks."""
    if hook.kind != "module":
        return hook.layer
    found = block_of(f"{hook.path}.")
    return facts.total_layers - 1 if found is None else found
