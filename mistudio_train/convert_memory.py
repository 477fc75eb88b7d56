"""Messages about models, memory and GPUs <-> records of Train's domain."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio.feature.v1 import model_pb2
from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_core.gpus import GB, GpuReading, best_first
from mistudio_core.home import Home
from mistudio_torch.lm.facts import ModelFacts
from mistudio_train.assess import COMFORT, Assessment, CardVerdict, gigabytes
from mistudio_train.config import TrainConfig
from mistudio_train.convert import config_of
from mistudio_train.duration import Duration
from mistudio_train.memory_plan import MemoryPlan, Settings
from mistudio_train.planner import in_words

LARGE_PARAMETERS = 3_000_000_000
_DTYPES = {
    "float32": model_pb2.DTYPE_FLOAT32,
    "bfloat16": model_pb2.DTYPE_BFLOAT16,
    "float16": model_pb2.DTYPE_FLOAT16,
}


def checked_config(request: train_service_pb2.CheckMemoryRequest, home: Home) -> TrainConfig:
    """The configuration whose memory is asked for. Raises InvalidInput, Unsupported, as a start would."""
    start = train_service_pb2.StartTrainingRequest(corpus_file="memory check")
    known = start.DESCRIPTOR.fields_by_name
    for field, value in request.ListFields():
        if field.name in known and field.message_type is None:
            setattr(start, field.name, value)
    start.sweep.CopyFrom(request.sweep)
    return config_of(start, home)


def request_value(name: str, value: object) -> object:
    """A setting as the request's field holds it: dtypes as numbers."""
    return _DTYPES[str(value)] if name == "dtype" else value


def given(request: train_service_pb2.StartTrainingRequest) -> frozenset[str]:
    """The settings that the caller chose: they are refused rather than changed."""
    chosen = {name for name in ("batch_size", "max_sequence_length") if request.HasField(name)}
    return frozenset(chosen | ({"dtype"} if request.dtype or request.enable_4bit or request.enable_8bit else set()))


def told(found: Assessment) -> dict[str, object]:
    """What a job keeps and its caller is told of the memory check."""
    return {
        "memory_check": f"passed: {gigabytes(found.fitting.device_bytes)} GB planned on {found.device}",
        "optimizations": [f"{in_words(found.changes)}, to fit in {found.room.name}"] if found.changes else [],
    }


def facts_of_shape(name: str, shape: training_pb2.ModelShape) -> ModelFacts:
    """Facts from a given shape."""
    other = max(0, shape.parameters - shape.total_layers * shape.block_parameters)
    return ModelFacts(
        model_name=name,
        architecture=shape.architecture,
        total_layers=max(1, shape.total_layers),
        hidden_size=max(1, shape.hidden_size),
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions or 512,
        requires_token=False,
        weight_bytes=0,
        parameters=shape.parameters,
        block_parameters=shape.block_parameters,
        other_parameters=other,
        dtype="",
        revision="",
        linear_parameters=shape.linear_parameters,
        embedding_parameters=shape.embedding_parameters,
        head_parameters=shape.head_parameters,
        feed_forward_size=shape.feed_forward_size,
        attention_heads=shape.attention_heads,
        key_value_heads=shape.key_value_heads,
        head_size=shape.head_size,
    )


def shape_of(facts: ModelFacts) -> training_pb2.ModelShape:
    """The shape of a model."""
    return training_pb2.ModelShape(
        architecture=facts.architecture,
        total_layers=facts.total_layers,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        max_positions=facts.max_positions,
        parameters=facts.parameters,
        block_parameters=facts.block_parameters,
        linear_parameters=facts.linear_parameters,
        embedding_parameters=facts.embedding_parameters,
        head_parameters=facts.head_parameters,
        feed_forward_size=facts.feed_forward_size,
        attention_heads=facts.attention_heads,
        key_value_heads=facts.key_value_heads,
        head_size=facts.head_size,
    )


def memory_answer(facts: ModelFacts, found: Assessment, *, shape_from: str) -> train_service_pb2.CheckMemoryResponse:
    """Whether a run fits, what would make it fit, and on which GPUs."""
    response = train_service_pb2.CheckMemoryResponse(
        model_name=facts.model_name,
        memory_check=_check(facts, found),
        optimization_suggestions=_suggestions(found),
        plan=_plan(facts, found, shape_from),
        time=_time(found.time),
        cards=[_card(c) for c in found.cards],
    )
    for verdict in found.gpus:
        response.gpu_compatibility[f"gpu_{verdict.gpu.index}"].CopyFrom(
            training_pb2.GpuCompatibility(
                compatible=verdict.gpu.compatible,
                memory_sufficient=verdict.sufficient,
                recommended=verdict.recommended,
                message=verdict.message,
            )
        )
    return response


def _check(facts: ModelFacts, found: Assessment) -> training_pb2.MemoryCheck:
    on_host = found.planned.host_bytes > found.room.host_bytes or not found.room.on_gpu
    needs = found.planned.host_bytes if on_host else found.planned.gpu_bytes
    return training_pb2.MemoryCheck(
        sufficient=found.sufficient,
        required_gb=gigabytes(needs),
        available_gb=gigabytes(found.room.host_bytes if on_host else found.room.device_bytes),
        recommendations=training_pb2.MemoryRecommendations(
            min_gpu_memory_gb=gigabytes(found.least_on_gpu),
            recommended_gpu_memory_gb=gigabytes(COMFORT * found.asked_on_gpu),
            is_large_model=facts.parameters > LARGE_PARAMETERS,
            use_4bit_quantization=found.changes.get("enable_4bit") is True,
        ),
    )


def _suggestions(found: Assessment) -> training_pb2.OptimizationSuggestions:
    best: Settings = found.suggested or Settings(
        batch_size=1, max_sequence_length=found.asked.max_sequence_length, precision="nf4"
    )
    asked_for = found.changes if found.suggested else {"enable_4bit": True}
    return training_pb2.OptimizationSuggestions(
        batch_size=best.batch_size,
        max_sequence_length=best.max_sequence_length,
        enable_4bit=best.precision == "nf4",
        enable_8bit=best.precision == "int8",
        dtype=_DTYPES.get(str(asked_for.get("dtype", "")), model_pb2.DTYPE_UNSPECIFIED),
        summary=in_words(found.changes),
    )


def _plan(facts: ModelFacts, found: Assessment, shape_from: str) -> training_pb2.MemoryPlan:
    planned: MemoryPlan = found.planned
    return training_pb2.MemoryPlan(
        parts=[
            training_pb2.MemoryPart(name=p.name, host_bytes=p.host_bytes, gpu_bytes=p.gpu_bytes, phases=p.phases)
            for p in planned.parts
        ],
        host_bytes=planned.host_bytes,
        gpu_bytes=planned.gpu_bytes,
        peak_phase=planned.peak_phase,
        device=found.device,
        layer_number=planned.workload.layer,
        precision=planned.workload.precision,
        model_bytes=planned.model_bytes,
        model_bytes_whole=2 * facts.parameters,
        shape_from=shape_from,
    )


def _time(time: Duration | None) -> training_pb2.TimePrediction | None:
    if time is None:
        return None
    return training_pb2.TimePrediction(
        seconds_per_million_tokens=time.seconds_per_million_tokens, seconds=time.seconds, basis=time.basis
    )


def _card(verdict: CardVerdict) -> training_pb2.CardCompatibility:
    return training_pb2.CardCompatibility(
        name=verdict.card.name,
        memory_gb=verdict.card.gigabytes,
        sufficient=verdict.sufficient,
        changes=verdict.changes,
        gpu_bytes=verdict.gpu_bytes,
        time=_time(verdict.time),
    )


def model_answer(facts: ModelFacts, found: Assessment) -> train_service_pb2.ValidateModelResponse:
    """A model that Train can use."""
    return train_service_pb2.ValidateModelResponse(
        model_name=facts.model_name,
        valid=True,
        accessible=True,
        requires_token=facts.requires_token,
        model_info=shape_of(facts),
        memory_requirements=training_pb2.MemoryRequirements(
            minimum_gb=gigabytes(found.least.device_bytes),
            recommended_gb=gigabytes(COMFORT * found.planned.device_bytes),
        ),
    )


def gpu_status(gpus: Sequence[GpuReading], free: Sequence[GpuReading]) -> train_service_pb2.GetGpuStatusResponse:
    """The machine's GPUs in the published form; `free` are those that no job holds."""
    response = train_service_pb2.GetGpuStatusResponse(cuda_available=bool(gpus), device_count=len(gpus))
    best = best_first(free) or best_first(gpus)
    if best:
        response.current_device = best[0].index
    held = {g.index for g in gpus} - {g.index for g in free}
    for gpu in gpus:
        response.gpus[str(gpu.index)].CopyFrom(_gpu(gpu, in_use=gpu.index in held))
    return response


def _gpu(gpu: GpuReading, *, in_use: bool) -> training_pb2.Gpu:
    capability = gpu.compute_capability
    return training_pb2.Gpu(
        name=gpu.name[:200],
        memory_total=gpu.total_bytes,
        memory_allocated=gpu.used_bytes,
        memory_free=gpu.free_bytes,
        free_gb=gigabytes(gpu.free_bytes),
        utilization=gpu.utilization,
        compute_capability="" if capability is None else f"{capability[0]}.{capability[1]}",
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        mig=gpu.mig,
        in_use=in_use,
        problem=gpu.problem[:1000],
    )


def gpu_memory(gpus: Sequence[GpuReading]) -> dict[str, training_pb2.GpuMemory]:
    """Memory of each GPU as health shows it."""
    return {
        f"gpu_{g.index}": training_pb2.GpuMemory(
            free_gb=round(g.free_bytes / GB, 1), total_gb=round(g.total_bytes / GB, 1)
        )
        for g in gpus
    }
