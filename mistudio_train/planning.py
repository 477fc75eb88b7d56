"""Answers of CheckMemory and ValidateModel: what a model needs beside what the machine has.

Figures come from config and weight headers alone; nothing is loaded.
"""

from __future__ import annotations

from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_rpc.devices import GpuReading
from mistudio_torch.lm.facts import ModelFacts
from mistudio_train.config import TrainConfig
from mistudio_train.memory import available_bytes, required_bytes

GB = 1e9
LARGE_PARAMETERS = 3_000_000_000
_COMFORT = 1.3  # room for activations of longer batches than the defaults


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
