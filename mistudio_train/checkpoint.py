"""A training state as two files, `state.safetensors` and `state.json`, and back, bit for bit.

Tensors: weights, Adam moments, dead counters, normalisation. JSON: where the run stands, its curves
and the digest of what it is a function of. A job of several SAEs has the two files once for each,
in one artifact: all or none. When to write one is the job's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactReader, ArtifactWriter
from mistudio_core.errors import Corrupt, InvalidInput
from mistudio_torch.sae.normalisation import Normalisation
from mistudio_train.curves import CurveRecorder
from mistudio_train.member import Member
from mistudio_train.trainer import Progress, Trainer

STATE_TENSORS = "state.safetensors"
STATE_JSON = "state.json"
FORMAT_VERSION = 2


def write_states(members: Sequence[Member], writer: ArtifactWriter, *, identity: str, processes: int) -> None:
    """Writes every state into a staged artifact; `identity` is the digest of config, corpus and model."""
    from safetensors.torch import save_file

    for member in members:
        trainer = member.trainer
        trainer.epoch_loss_sum()
        tensors = {name: t.detach().cpu().contiguous() for name, t in _tensors(trainer).items()}
        save_file(tensors, writer.path(member.variant.artifact(STATE_TENSORS).replace("/", ".")))
        state = {
            "format_version": FORMAT_VERSION,
            "identity": identity,
            "threads": torch.get_num_threads(),
            "processes": processes,
            "scales": None if trainer.source is None or trainer.target is None else _scales(trainer),
            "progress": asdict(trainer.progress),
            "curves": member.curves.state(),
            "error": member.error,
        }
        writer.write(_json_name(member), json.dumps(state, sort_keys=True).encode())


def _json_name(member: Member) -> str:
    return member.variant.artifact(STATE_JSON).replace("/", ".")


def _scales(trainer: Trainer) -> list[float]:
    return [n.scale for n in (trainer.source, trainer.target) if n is not None]


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that is a tensor, by name."""
    found: dict[str, Tensor] = {"since_fired_F": trainer.since_fired_F}
    for name, parameter in trainer.sae.named_parameters():
        found[name] = parameter
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            found[f"adam.{name}.{key}"] = value
    found.update(trainer.sae.named_buffers())
    if trainer.source is not None and trainer.target is not None:
        found["source_mean_D"] = trainer.source.mean_D
        found["target_mean_D"] = trainer.target.mean_D.clone()
    return found


def read_states(
    members: Sequence[Member], reader: ArtifactReader, *, identity: str, processes: int
) -> Mapping[str, Any]:
    """Puts the states into fresh trainers; returns the JSON part of the first.

    Raises Corrupt; InvalidInput (MODEL_INVALID) where the model, corpus or config is another one, or
    the number of processes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    states: list[dict[str, Any]] = []
    try:
        for member in members:
            state: dict[str, Any] = json.loads(reader.read_bytes(_json_name(member)))
            tensors = load_file(reader.path(member.variant.artifact(STATE_TENSORS).replace("/", ".")))
            if state["format_version"] != FORMAT_VERSION or state["identity"] != identity:
                raise InvalidInput(
                    "The checkpoint belongs to another model revision, corpus or configuration. Start the job anew.",
                    reason="MODEL_INVALID",
                )
            _check_processes(state["processes"], processes)
            _restore(member, state, tensors)
            states.append(state)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Corrupt("The checkpoint cannot be read. Start the job anew.", reason="CHECKPOINT_LOST") from error
    return states[0]


def _check_processes(written: int, now: int) -> None:
    if written != now:
        raise InvalidInput.field(
            "processes",
            now,
            f"{written}, as in the checkpoint: another number rounds and selects otherwise",
            f"Resume with {written} processes, or start the job anew.",
        )


def _restore(member: Member, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    trainer = member.trainer
    with torch.no_grad():
        trainer.since_fired_F.copy_(tensors["since_fired_F"])
        for name, buffer in trainer.sae.named_buffers():
            buffer.copy_(tensors[name])
        for name, parameter in trainer.sae.named_parameters():
            parameter.copy_(tensors[name])
            prefix = f"adam.{name}."
            moments = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            if moments:
                trainer.optimizer.state[parameter] = {
                    k: t.clone().to(trainer.device) if k != "step" else t.clone() for k, t in moments.items()
                }
    if state["scales"] is not None:
        source, target = state["scales"]
        trainer.source = Normalisation(mean_D=tensors["source_mean_D"].clone(), scale=source)
        trainer.target = Normalisation(mean_D=tensors["target_mean_D"].clone(), scale=target)
    trainer.progress = Progress(**state["progress"])
    member.curves = CurveRecorder.of_state(state["curves"])
    member.error = state["error"]
