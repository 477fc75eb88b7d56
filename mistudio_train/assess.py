"""Everything that can be said about the memory of a run before it starts: this machine, its GPUs, other GPUs.

Puts plans, the search and the predicted time together for CheckMemory, ValidateModel and the start
of a job. Asks no machine: readings come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_core.gpus import GB, GpuReading, best_first, gpu_of
from mistudio_torch.lm.facts import ModelFacts
from mistudio_train.cards import CARDS, Card
from mistudio_train.config import TrainConfig
from mistudio_train.duration import Duration, Speed, predict, speed_of_gpu, speed_of_host
from mistudio_train.memory_plan import MemoryPlan, Room, Settings, asked_of, plan
from mistudio_train.planner import fit, in_words, smallest

ENDLESS = 1 << 60
COMFORT = 1.1
"""Factor from what a run needs to what it runs in with ease: the plan may be 15 % off, the driver takes some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuVerdict:
    """Whether one GPU of this machine can take the run."""

    gpu: GpuReading
    """The GPU."""
    sufficient: bool
    """Whether the run fits as asked."""
    recommended: bool
    """Whether it is the one to take."""
    message: str
    """Why not, or what to change; empty where it fits as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardVerdict:
    """Whether a common GPU could take the run."""

    card: Card
    """The GPU."""
    sufficient: bool
    """Whether it can, with `changes`."""
    changes: str
    """What to change, in words."""
    gpu_bytes: int
    """Peak with these changes; of the smallest setting where it does not fit."""
    time: Duration
    """How long it may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """What is known of a run on the best device of this machine."""

    asked: Settings
    """What was asked for."""
    planned: MemoryPlan
    """The plan as asked."""
    room: Room
    """The device that it is for."""
    device: str
    """`cpu`, or `gpu_0`."""
    suggested: Settings | None
    """What fits and changes least; what was asked for, where that fits; None where nothing does."""
    fitting: MemoryPlan
    """The plan of what is suggested; the plan as asked where nothing fits."""
    least: MemoryPlan
    """The smallest plan at the asked sequence length."""
    gpus: tuple[GpuVerdict, ...]
    """The GPUs of this machine."""
    cards: tuple[CardVerdict, ...]
    """Common GPUs."""
    time: Duration | None
    """Predicted time; None where nothing is known of the device's speed."""
    least_on_gpu: int
    """Bytes of GPU memory that the smallest plan on any GPU takes."""
    asked_on_gpu: int
    """Bytes of GPU memory that the run as asked takes."""

    @property
    def sufficient(self) -> bool:
        """Whether the run fits as asked."""
        return self.room.holds(self.planned)

    @property
    def changes(self) -> dict[str, object]:
        """Fields to change so that it fits; empty where it fits or nothing helps."""
        return self.suggested.changes(self.asked) if self.suggested else {}


def assess(
    facts: ModelFacts,
    config: TrainConfig,
    *,
    gpus: Sequence[GpuReading],
    host_bytes: int,
    gpu_id: int | None = None,
    fixed: frozenset[str] = frozenset(),
) -> Assessment:
    """The run on the GPU with most free memory, on `gpu_id`, or on the CPU where there is no GPU.

    `fixed`: see `planner.candidates`. Raises InvalidInput (GPU_NOT_FOUND, a length beyond the model's).
    """
    usable = best_first(gpus) if gpu_id is None else [gpu_of(gpus, gpu_id)]
    chosen = usable[0] if usable else None
    room = room_on(chosen, host_bytes)
    found = fit(facts, config, room, fixed=fixed)
    planned = plan(facts, config, on_gpu=room.on_gpu)
    speed = speed_of_host() if chosen is None else speed_of_gpu(chosen.name)
    return Assessment(
        asked=asked_of(facts, config, on_gpu=room.on_gpu),
        planned=planned,
        room=room,
        device="cpu" if chosen is None else f"gpu_{chosen.index}",
        suggested=found[0] if found else None,
        fitting=found[1] if found else planned,
        least=smallest(facts, config, on_gpu=room.on_gpu),
        gpus=tuple(_verdict(facts, config, g, host_bytes, chosen) for g in gpus),
        cards=tuple(_card(facts, config, card) for card in CARDS),
        time=None if speed is None else predict(planned.workload, speed, token_budget=config.token_budget),
        least_on_gpu=smallest(facts, config, on_gpu=True).gpu_bytes,
        asked_on_gpu=plan(facts, config, on_gpu=True).gpu_bytes,
    )


def room_on(gpu: GpuReading | None, host_bytes: int) -> Room:
    """The room on a GPU, or in RAM."""
    if gpu is None:
        return Room(name="RAM", host_bytes=host_bytes, gpu_bytes=None)
    return Room(name=f"gpu_{gpu.index} ({gpu.name})", host_bytes=host_bytes, gpu_bytes=gpu.free_bytes)


def _verdict(
    facts: ModelFacts, config: TrainConfig, gpu: GpuReading, host_bytes: int, chosen: GpuReading | None
) -> GpuVerdict:
    room = room_on(gpu, host_bytes)
    enough = bool(gpu.total_bytes) and room.holds(plan(facts, config, on_gpu=True))
    message = ""
    if not gpu.compatible:
        message = "its generation is older than the kernels that torch has"
    elif not gpu.total_bytes:
        message = f"its memory cannot be read: {gpu.problem or 'no reason given'}"
    elif not enough:
        found = fit(facts, config, room)
        asked = asked_of(facts, config, on_gpu=True)
        message = f"fits with {in_words(found[0].changes(asked))}" if found else "nothing makes the run fit"
    recommended = enough and gpu.compatible and gpu == chosen
    return GpuVerdict(gpu=gpu, sufficient=enough, recommended=recommended, message=message)


def _card(facts: ModelFacts, config: TrainConfig, card: Card) -> CardVerdict:
    """A card alone in a machine with as much RAM as the run wants; the sequence length stays as asked."""
    room = Room(name=card.name, host_bytes=ENDLESS, gpu_bytes=card.usable_bytes)
    found = fit(facts, config, room, fixed=frozenset({"max_sequence_length"}))
    planned = found[1] if found else smallest(facts, config, on_gpu=True)
    speed = Speed(peak_flops=card.peak_flops, source=f"the maker's figure for {card.name}")
    changes = found[0].changes(asked_of(facts, config, on_gpu=True)) if found else {}
    return CardVerdict(
        card=card,
        sufficient=found is not None,
        changes=in_words(changes),
        gpu_bytes=planned.gpu_bytes,
        time=predict(planned.workload, speed, token_budget=config.token_budget),
    )


def smallest_card(assessment: Assessment) -> CardVerdict | None:
    """The smallest common GPU that the run fits on; None where none is large enough."""
    return next((c for c in assessment.cards if c.sufficient), None)


def gigabytes(size: float) -> float:
    """Bytes in GB, one decimal."""
    return round(size / GB, 1)
