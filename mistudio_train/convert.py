"""Messages of mistudio.train.v1 <-> records of Train's domain."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mistudio.feature.v1 import model_pb2, sae_pb2
from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.home import Home
from mistudio_core.jobs.records import JobRecord
from mistudio_rpc import messages
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.hookpoints import parse_hook
from mistudio_train import convert_corpus
from mistudio_train.config import PENALISED, TOP_K_FAMILY, TrainConfig
from mistudio_train.result import SaeResult, TrainingStats, TrainResult
from mistudio_train.variants import Sweep

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
    "splice_tokens",
    "processes",
    "cache_activations",
    "auto_layer",
)
_ONLY_WITH = {"k": TOP_K_FAMILY, "sparsity_coeff": PENALISED}


def config_of(request: train_service_pb2.StartTrainingRequest, home: Home) -> TrainConfig:
    """The configuration that a request asks for. Raises InvalidInput, Unsupported."""
    given = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONAL}
    given |= _hooks_of(request)
    architecture = messages.enum_short(sae_pb2.Architecture.Name(request.architecture), "ARCHITECTURE_") or "standard"
    for name, wanted in _ONLY_WITH.items():
        if name in given and architecture not in wanted:
            raise Unsupported(
                f"{name} with architecture {architecture}",
                why=f"it belongs to {', '.join(wanted)}",
                instead=f"Leave {name} out, or set architecture to {wanted[0]}.",
            )
    if request.sweep.ks and architecture not in TOP_K_FAMILY:
        raise Unsupported(
            f"sweep.ks with architecture {architecture}", why="it has no k", instead="Set architecture to topk."
        )
    if request.enable_4bit and request.enable_8bit:
        raise InvalidInput.field("enable_8bit", True, "false, where enable_4bit is set", "Set one of them.")
    dtype = messages.enum_short(model_pb2.Dtype.Name(request.dtype), "DTYPE_")
    return TrainConfig(
        model_name=request.model_name,
        corpus_name=request.corpus_file,
        dataset=convert_corpus.dataset_of(request),
        architecture=architecture,
        dtype=dtype or "auto",
        seed=request.seed,
        token_budget=request.token_budget,
        quantization="nf4" if request.enable_4bit else "int8" if request.enable_8bit else "none",
        sweep=Sweep(
            layers=tuple(request.sweep.layers),
            widths=tuple(request.sweep.widths),
            ks=tuple(request.sweep.ks),
            seeds=tuple(request.sweep.seeds),
        ),
        model_root=Path(home.models),
        **given,
    )


def _hooks_of(request: train_service_pb2.StartTrainingRequest) -> dict[str, Any]:
    """Which hooks are read: fields of the configuration. Raises InvalidInput."""
    kind = messages.enum_short(sae_pb2.Hook.Name(request.hook), "HOOK_")
    found: dict[str, Any] = (
        {"output_hook": parse_hook(request.output_hook_name).name} if request.output_hook_name else {}
    )
    if request.auto_layer and (request.HasField("layer_number") or request.hook_name or request.module_path):
        raise InvalidInput.field(
            "auto_layer", True, "false, where layer_number, hook_name or module_path is set", "Leave them out."
        )
    if request.hook_name:
        if request.HasField("layer_number") or request.hook or request.module_path:
            raise InvalidInput.field(
                "hook_name", request.hook_name, "nothing, where layer_number, hook or module_path is set"
            )
        hook = parse_hook(request.hook_name)
        return found | (
            {"hook": hook.name} if hook.kind == "module" else {"hook": hook.kind, "layer_number": hook.layer}
        )
    if (kind == "module") != bool(request.module_path):
        raise InvalidInput.field(
            "module_path", request.module_path, "a module's path with hook = module, and nothing without"
        )
    if request.sweep.layers and (request.HasField("layer_number") or request.module_path):
        raise InvalidInput.field(
            "sweep.layers", list(request.sweep.layers), "nothing, where layer_number or module_path is set"
        )
    return found | {"hook": parse_hook(request.module_path).name if kind == "module" else kind or "resid_post"}


def result_message(result: TrainResult) -> train_service_pb2.GetTrainingResultResponse:
    """What the worker stores; job, status and artifacts are added by the servicer."""
    return train_service_pb2.GetTrainingResultResponse(
        training_stats=_stats(result.training_stats),
        feature_count=result.feature_count,
        model_info=model_pb2.ModelInfo(**asdict(result.model_info)),
        ready_for_find_service=True,
        sae_sha256=result.sae_sha256,
        saes=[_sae(sae) for sae in result.saes],
    )


def _sae(sae: SaeResult) -> train_service_pb2.SaeSummary:
    plain = {f.name: getattr(sae, f.name) for f in fields(sae)}
    stats = plain.pop("training_stats")
    return train_service_pb2.SaeSummary(training_stats=None if stats is None else _stats(stats), **plain)


def _stats(stats: TrainingStats) -> training_pb2.TrainingStats:
    plain = asdict(stats)
    gates = [training_pb2.QualityGate(**gate) for gate in plain.pop("quality_gates")]
    features = training_pb2.FeatureStatistics(**plain.pop("feature_statistics"))
    return training_pb2.TrainingStats(feature_statistics=features, quality_gates=gates, **plain)


def start_message(job: JobRecord) -> train_service_pb2.StartTrainingResponse:
    """The reply to a start: the same for the first one and for every equal one after it."""
    facts, layer = ModelFacts(**job.details["facts"]), job.details["layer"]
    chosen = f"; layer {layer} of {facts.total_layers} was chosen" if job.details["layer_was_chosen"] else ""
    if job.details.get("layer_is_probed"):
        chosen = f"; it probes layers of {facts.total_layers} and reads one"
    return train_service_pb2.StartTrainingResponse(
        job_id=job.job_id,
        status=messages.status_value(job.status),
        message=f"Training job started for {job.model_name}{chosen}",
        model_name=job.model_name,
        requires_token=facts.requires_token,
        memory_check=job.details.get("memory_check", "passed"),
        optimizations_applied="; ".join(
            [f"Layers after {layer} are neither read nor loaded", *job.details.get("optimizations", ())]
        ),
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
        last_checkpoint=weights_of_checkpoint(job.last_checkpoint, several=has_sweep(job))
        if job.last_checkpoint
        else None,
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


def weights_of_checkpoint(uri: str, *, several: bool) -> str:
    """The published path of a checkpoint: its file of weights; of several SAEs, the folder of all of them."""
    return uri if several else f"{uri}/state.safetensors"


def has_sweep(job: JobRecord) -> bool:
    """Whether a job trains several SAEs."""
    sweep = train_service_pb2.StartTrainingRequest.FromString(job.request).sweep
    return bool(sweep.layers or sweep.widths or sweep.ks or sweep.seeds)


def add_artifacts(
    response: train_service_pb2.GetTrainingResultResponse, job: JobRecord, artifacts: list[ArtifactRecord]
) -> train_service_pb2.GetTrainingResultResponse:
    """Completes a stored result with what the store knows; single paths are of the first SAE that did not fail."""
    response.job_id = job.job_id
    response.status = messages.status_value(job.status)
    files = {"sae": "sae_weights.safetensors", "codes": "meta.json", "metadata": "metadata.json"}
    first = next((sae.name for sae in response.saes if not sae.error), "")
    prefix = f"/{job.job_id}/{first and first + '/'}"
    paths = {
        a.kind: f"{a.uri}/{files[a.kind]}" for a in artifacts if a.uri.endswith(prefix + a.kind) and a.kind in files
    }
    response.model_path = paths.get("sae", "")
    response.activations_path = paths.get("codes", "")
    response.metadata_path = paths.get("metadata", "")
    checkpoints = [a.uri for a in artifacts if a.kind == "checkpoint"]
    response.checkpoints.extend(weights_of_checkpoint(uri, several=len(response.saes) > 1) for uri in checkpoints)
    response.artifacts.extend(messages.artifact_message(a) for a in artifacts)
    return response
