"""Messages of mistudio.train.v1 <-> records of Train's domain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from mistudio.feature.v1 import model_pb2, sae_pb2
from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.home import Home
from mistudio_core.jobs.records import JobRecord
from mistudio_rpc import messages
from mistudio_rpc.devices import GpuReading
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.source import parse_hook_name
from mistudio_train.config import TrainConfig
from mistudio_train.memory import available_bytes, required_bytes
from mistudio_train.result import TrainingStats, TrainResult

GB = 1e9
LARGE_PARAMETERS = 3_000_000_000
_COMFORT = 1.3  # room for activations of longer batches than the defaults
_OPTIONAL = (
    "layer_number",
    "hidden_dim",
    "sparsity_coeff",
    "learning_rate",
    "batch_size",
    "max_epochs",
    "min_loss",
    "max_sequence_length",
    "k",
    "sae_batch_tokens",
    "normalize_activations",
    "checkpoint_interval_seconds",
    "heldout_fraction",
    "max_code_tokens",
)


_ONLY_WITH = {"k": "topk", "sparsity_coeff": "standard"}


def config_of(request: train_service_pb2.StartTrainingRequest, home: Home) -> TrainConfig:
    """The configuration that a request asks for. Raises InvalidInput, Unsupported."""
    given = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL}
    if request.hook_name:
        if "layer_number" in given or request.hook:
            raise InvalidInput.field("hook_name", request.hook_name, "nothing, where layer_number or hook is set")
        given["layer_number"] = parse_hook_name(request.hook_name)
    architecture = messages.enum_short(sae_pb2.Architecture.Name(request.architecture), "ARCHITECTURE_") or "standard"
    for name, wanted in _ONLY_WITH.items():
        if name in given and architecture != wanted:
            raise Unsupported(
                f"{name} with architecture {architecture}",
                why=f"it belongs to {wanted}",
                instead=f"Leave {name} out, or set architecture to {wanted}.",
            )
    dtype = messages.enum_short(model_pb2.Dtype.Name(request.dtype), "DTYPE_")
    return TrainConfig(
        model_name=request.model_name,
        corpus_name=request.corpus_file,
        architecture=architecture,
        dtype=dtype or "auto",
        seed=request.seed,
        token_budget=request.token_budget,
        model_root=Path(home.models),
        **given,
    )


def result_message(result: TrainResult) -> train_service_pb2.GetTrainingResultResponse:
    """What the worker stores; job, status and artifacts are added by the servicer."""
    return train_service_pb2.GetTrainingResultResponse(
        training_stats=_stats(result.training_stats),
        feature_count=result.feature_count,
        model_info=model_pb2.ModelInfo(**asdict(result.model_info)),
        ready_for_find_service=True,
        sae_sha256=result.sae_sha256,
    )


def _stats(stats: TrainingStats) -> training_pb2.TrainingStats:
    plain = asdict(stats)
    gates = [training_pb2.QualityGate(**gate) for gate in plain.pop("quality_gates")]
    features = training_pb2.FeatureStatistics(**plain.pop("feature_statistics"))
    return training_pb2.TrainingStats(feature_statistics=features, quality_gates=gates, **plain)


def start_message(job: JobRecord) -> train_service_pb2.StartTrainingResponse:
    """The reply to a start: the same for the first one and for every equal one after it."""
    facts, layer = ModelFacts(**job.details["facts"]), job.details["layer"]
    chosen = f"; layer {layer} of {facts.total_layers} was chosen" if job.details["layer_was_chosen"] else ""
    return train_service_pb2.StartTrainingResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        message=f"Training job started for {job.model_name}{chosen}",
        model_name=job.model_name,
        requires_token=facts.requires_token,
        memory_check="passed",
        optimizations_applied=f"Layers after {layer} are neither read nor loaded",
    )


def status_message(job: JobRecord) -> train_service_pb2.GetTrainingStatusResponse:
    """How far a training job is, in the published form."""
    values = job.metrics.values if job.metrics else {}
    return train_service_pb2.GetTrainingStatusResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        progress=1.0 if job.status == "completed" else job.progress.fraction,
        current_epoch=int(values.get("epoch", 0)),
        current_loss=values.get("current_loss", 0.0),
        estimated_time_remaining=job.progress.remaining_s,
        message=status_line(job),
        model_info=model_info(ModelFacts(**job.details["facts"]), job.details["layer"]),
        last_checkpoint=weights_of_checkpoint(job.last_checkpoint) if job.last_checkpoint else None,
        error=messages.error_message(job.error),
        metrics=messages.metric_message(job.metrics),
    )


def status_line(job: JobRecord) -> str:
    """One line for people about where a job stands."""
    if job.error is not None:
        return job.error.message
    if job.status == "queued":
        return job.queue_reason or "Waiting for a device"
    if job.status == "running":
        return job.progress.message or f"Training in progress - {job.progress.stage or 'starting'}"
    return {"completed": "Training completed", "cancelled": "Cancelled"}.get(job.status, job.status)


def model_info(facts: ModelFacts, layer: int) -> model_pb2.ModelInfo:
    """A model and the layer taken from it."""
    return model_pb2.ModelInfo(
        model_name=facts.model_name,
        actual_model_loaded=facts.model_name,
        architecture=facts.architecture,
        total_layers=facts.total_layers,
        selected_layer=layer,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        requires_token=facts.requires_token,
        revision=facts.revision,
    )


def weights_of_checkpoint(uri: str) -> str:
    """The published path of a checkpoint: its file of weights."""
    return f"{uri}/state.safetensors"


def add_artifacts(
    response: train_service_pb2.GetTrainingResultResponse, job: JobRecord, artifacts: list[ArtifactRecord]
) -> train_service_pb2.GetTrainingResultResponse:
    """Completes a stored result with what the store knows."""
    response.job_id = job.job_id
    response.status = messages.status_value(job.status)
    files = {"sae": "sae_weights.safetensors", "codes": "codes.safetensors", "metadata": "metadata.json"}
    paths = {a.kind: f"{a.uri}/{files[a.kind]}" for a in artifacts if a.kind in files}
    response.model_path = paths.get("sae", "")
    response.activations_path = paths.get("codes", "")
    response.metadata_path = paths.get("metadata", "")
    response.checkpoints.extend(weights_of_checkpoint(a.uri) for a in artifacts if a.kind == "checkpoint")
    response.artifacts.extend(messages.artifact_message(a) for a in artifacts)
    return response


def gpu_status(gpus: list[GpuReading]) -> train_service_pb2.GetGpuStatusResponse:
    """The machine's GPUs in the published form."""
    response = train_service_pb2.GetGpuStatusResponse(cuda_available=bool(gpus), device_count=len(gpus))
    if gpus:
        response.current_device = max(gpus, key=lambda g: g.free_bytes).index
    for gpu in gpus:
        response.gpus[str(gpu.index)].CopyFrom(
            training_pb2.Gpu(
                name=gpu.name,
                memory_total=gpu.total_bytes,
                memory_allocated=gpu.used_bytes,
                memory_free=gpu.free_bytes,
                free_gb=round(gpu.free_bytes / GB, 1),
                utilization=gpu.utilization,
            )
        )
    return response


def memory_answer(facts: ModelFacts, gpus: list[GpuReading]) -> train_service_pb2.CheckMemoryResponse:
    """Whether a default run of a model fits the largest device, and what would make it fit."""
    required = required_bytes(facts, TrainConfig(model_name=facts.model_name))
    available = max((g.free_bytes for g in gpus), default=available_bytes())
    fits, large = required <= available, facts.parameters > LARGE_PARAMETERS
    response = train_service_pb2.CheckMemoryResponse(
        model_name=facts.model_name,
        memory_check=training_pb2.MemoryCheck(
            sufficient=fits,
            required_gb=round(required / GB, 1),
            available_gb=round(available / GB, 1),
            recommendations=training_pb2.MemoryRecommendations(
                min_gpu_memory_gb=round(required / GB, 1),
                recommended_gpu_memory_gb=round(_COMFORT * required / GB, 1),
                is_large_model=large,
                use_4bit_quantization=False,
                use_gradient_checkpointing=False,
            ),
        ),
        optimization_suggestions=training_pb2.OptimizationSuggestions(
            batch_size=16 if fits else 4, max_sequence_length=min(512, facts.max_positions)
        ),
    )
    for gpu in gpus:
        enough = gpu.free_bytes >= required
        best = enough and gpu.free_bytes == available
        response.gpu_compatibility[f"gpu_{gpu.index}"].CopyFrom(
            training_pb2.GpuCompatibility(compatible=True, memory_sufficient=enough, recommended=best)
        )
    return response


def model_answer(facts: ModelFacts) -> train_service_pb2.ValidateModelResponse:
    """A model that Train can use."""
    required = required_bytes(facts, TrainConfig(model_name=facts.model_name)) / GB
    return train_service_pb2.ValidateModelResponse(
        model_name=facts.model_name,
        valid=True,
        accessible=True,
        requires_token=facts.requires_token,
        model_info=training_pb2.ModelShape(
            architecture=facts.architecture,
            total_layers=facts.total_layers,
            hidden_size=facts.hidden_size,
            vocab_size=facts.vocab_size,
        ),
        memory_requirements=training_pb2.MemoryRequirements(
            minimum_gb=round(required, 1), recommended_gb=round(_COMFORT * required, 1)
        ),
    )
