"""A memory plan for people: the model, each part of a run, the peak, the time, and which GPU would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2, training_pb2
    from rich.console import RenderableType


def show_plan(
    valid: train_service_pb2.ValidateModelResponse | None,
    memory: train_service_pb2.CheckMemoryResponse | None,
    recipe: str,
) -> None:
    """Prints both answers; `valid` is None where the hub could not be asked."""
    from mistudio_cli.output import facts_table, say, show
    from mistudio_cli.recipes import RECIPES

    show(facts_table(_model_facts(valid, memory)))
    if memory is None:
        return
    show(_parts(memory.plan), *_gpus(memory), *_cards(memory))
    for line in (*_verdict(memory), *_time(memory)):
        say(line)
    if note := RECIPES[recipe].note:
        say(note)


def _model_facts(
    valid: train_service_pb2.ValidateModelResponse | None, memory: train_service_pb2.CheckMemoryResponse | None
) -> dict[str, object]:
    facts: dict[str, object] = {}
    if valid is None:
        facts["usable"] = "not known: the hub cannot be reached; planned from the recipe's shape"
    else:
        facts |= {
            "model": valid.model_name,
            "usable": "yes" if valid.valid else f"no: {valid.reason}: {valid.message}",
            "accessible": _yes(valid.accessible),
            "needs a token": _yes(valid.requires_token),
        }
        if valid.HasField("model_info"):
            shape = valid.model_info
            facts |= {
                "architecture": shape.architecture,
                "layers": f"{shape.total_layers} (0 to {shape.total_layers - 1})",
                "hidden size": shape.hidden_size,
                "vocabulary": shape.vocab_size,
            }
    if memory is not None:
        plan = memory.plan
        facts.setdefault("model", memory.model_name)
        facts["planned"] = f"layer {plan.layer_number}, {plan.precision}, on {plan.device}"
        share = plan.model_bytes / max(plan.model_bytes_whole, 1)
        of_whole = f", {share:.0%} of the whole model in 16 bits" if plan.model_bytes_whole and share < 1 else ""
        facts["loaded"] = f"{_gb(plan.model_bytes)}{of_whole}"
    return facts


def _parts(plan: training_pb2.MemoryPlan) -> RenderableType:
    """Every part, with a mark at those of the peak, and the peak itself."""
    from mistudio_cli.output import table

    on_gpu = plan.gpu_bytes > 0
    rows: list[tuple[str, ...]] = []
    for part in plan.parts:
        sizes = (_gb(part.host_bytes), _gb(part.gpu_bytes)) if on_gpu else (_gb(part.host_bytes),)
        rows.append((part.name, *sizes, "yes" if plan.peak_phase in part.phases else ""))
    peak = (_gb(plan.host_bytes), _gb(plan.gpu_bytes)) if on_gpu else (_gb(plan.host_bytes),)
    rows.append((f"peak ({plan.peak_phase})", *peak, ""))
    columns = ("part", "RAM", "GPU", "in the peak") if on_gpu else ("part", "RAM", "in the peak")
    return table("Memory", columns, rows, right=("RAM", "GPU"))


def _gpus(memory: train_service_pb2.CheckMemoryResponse) -> list[RenderableType]:
    from mistudio_cli.output import table

    rows = [
        (name, _yes(gpu.compatible), _yes(gpu.memory_sufficient), _yes(gpu.recommended), gpu.message)
        for name, gpu in sorted(memory.gpu_compatibility.items())
    ]
    return [table("GPUs", ("gpu", "compatible", "memory", "recommended", "remark"), rows)] if rows else []


def _cards(memory: train_service_pb2.CheckMemoryResponse) -> list[RenderableType]:
    """Common GPUs, where this machine has none or too small ones."""
    from mistudio_cli.output import table

    if memory.plan.gpu_bytes and memory.memory_check.sufficient:
        return []
    rows = [
        (c.name, f"{c.memory_gb} GB", _yes(c.sufficient), c.changes, _gb(c.gpu_bytes), _duration(c.time))
        for c in memory.cards
    ]
    return [table("Common GPUs", ("gpu", "memory", "enough", "with", "peak", "time"), rows, right=("memory", "peak"))]


def _verdict(memory: train_service_pb2.CheckMemoryResponse) -> list[str]:
    """Whether this machine does, what to change, and which common GPU would."""
    found, advice = memory.memory_check, memory.optimization_suggestions
    enough = "enough" if found.sufficient else "not enough"
    lines = [f"{found.required_gb:.1f} GB needed, {found.available_gb:.1f} GB free: {enough} on this machine."]
    if found.sufficient:
        return lines
    if advice.summary:
        lines.append(f"It fits with {advice.summary}.")
    as_asked = next((c for c in memory.cards if c.sufficient and not c.changes), None)
    smallest = next((c for c in memory.cards if c.sufficient), None)
    if smallest is None:
        lines.append("No common GPU is large enough: choose an earlier layer, or lower hidden_dim.")
    elif smallest.changes:
        lines.append(f"A GPU with {smallest.memory_gb} GB takes it with {smallest.changes}.")
    if as_asked is not None:
        lines.append(f"A GPU with {as_asked.memory_gb} GB takes it as asked.")
    return lines


def _time(memory: train_service_pb2.CheckMemoryResponse) -> list[str]:
    """How long it may take here, and what that is counted from."""
    if not memory.HasField("time"):
        return ["Time here: not known, as the speed of this GPU is not in the table."]
    return [f"Time here: about {_duration(memory.time)}. Counted: {memory.time.basis}."]


def _duration(time: training_pb2.TimePrediction) -> str:
    from mistudio_cli.output import seconds_text

    each = f"{seconds_text(time.seconds_per_million_tokens)} a million tokens"
    return f"{seconds_text(time.seconds)} ({each})" if time.HasField("seconds") else each


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
