"""A training state as two files, `state.safetensors` and `state.json`, and back, bit for bit.

Tensors: weights, Adam moments, dead counters, normalisation. JSON: where the run stands and the
digest of what it is a function of. When to write one is the job's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactReader, ArtifactWriter
from mistudio_core.errors import Corrupt, InvalidInput
from mistudio_torch.sae.base import Normalisation
from mistudio_train.trainer import Progress, Trainer

STATE_TENSORS = "state.safetensors"
STATE_JSON = "state.json"
FORMAT_VERSION = 1


def write_state(trainer: Trainer, writer: ArtifactWriter, *, identity: str) -> None:
    """Writes the state into a staged artifact; `identity` is the digest of config, corpus and model."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {"since_fired_F": trainer.since_fired_F}
    for name, parameter in trainer.sae.named_parameters():
        tensors[name] = parameter.detach()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{name}.{key}"] = value
    scale = None
    if trainer.normalisation is not None:
        tensors["mean_D"], scale = trainer.normalisation.mean_D, trainer.normalisation.scale
    writer.write(STATE_TENSORS, save({name: t.cpu().contiguous() for name, t in tensors.items()}))
    state = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "threads": torch.get_num_threads(),
        "scale": scale,
        "progress": asdict(trainer.progress),
    }
    writer.write(STATE_JSON, json.dumps(state, sort_keys=True).encode())


def read_state(trainer: Trainer, reader: ArtifactReader, *, identity: str) -> Mapping[str, Any]:
    """Puts a state into a fresh trainer; returns the JSON part.

    Raises Corrupt; InvalidInput (MODEL_INVALID) where the model, corpus or config is another one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: dict[str, Any] = json.loads(reader.read_bytes(STATE_JSON))
        tensors = load(reader.read_bytes(STATE_TENSORS))
        if state["format_version"] == FORMAT_VERSION and state["identity"] == identity:
            _restore(trainer, state, tensors)
            return state
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Corrupt("The checkpoint cannot be read. Start the job anew.", reason="CHECKPOINT_LOST") from error
    raise InvalidInput(
        "The checkpoint belongs to another model revision, corpus or configuration. Start the job anew.",
        reason="MODEL_INVALID",
    )


def _restore(trainer: Trainer, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        trainer.since_fired_F.copy_(tensors["since_fired_F"])
        for name, parameter in trainer.sae.named_parameters():
            parameter.copy_(tensors[name])
            prefix = f"adam.{name}."
            moments = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            if moments:
                trainer.optimizer.state[parameter] = {
                    k: t.clone().to(trainer.device) if k != "step" else t.clone() for k, t in moments.items()
                }
    if state["scale"] is not None:
        trainer.normalisation = Normalisation(mean_D=tensors["mean_D"].clone(), scale=state["scale"])
    trainer.progress = Progress(**state["progress"])
