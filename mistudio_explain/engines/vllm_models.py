"""Which models a managed engine can serve, and whether one fits a device: from files alone.

Reads config.json and the headers of safetensors files, never a tensor. Owns finding a model on this
machine and the memory it takes; what to do about it is the pool's.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.errors import Corrupt, InvalidInput, LimitReached, NotFound
from mistudio_core.home import Home
from mistudio_explain.engines.vllm_settings import VllmSettings

GB = 1e9
_HUB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
_HEADER_LIMIT = 100_000_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_GPU_CONTEXT_BYTES = 0.8e9
"""A CUDA context with its libraries and graphs."""
_CPU_PROCESS_BYTES = 1.2e9
"""A process on cores without its model: measured 1.1 GB."""
_BATCHED_TOKENS = 8192
"""Tokens that vLLM computes at a time by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMemory:
    """What a process holds, bytes."""

    weights: float
    """Parameters, as they are held."""
    cache: float
    """Attention cache of one request of full length, or what is configured on cores."""
    work: float
    """Activations of a full batch, logits, and the process itself."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.work

    def __str__(self) -> str:
        """The parts, for messages."""
        parts = f"weights {self.weights / GB:.1f}, attention cache {self.cache / GB:.1f}, work {self.work / GB:.1f}"
        return f"{self.total / GB:.1f} GB ({parts})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A device and what a process may take of it."""

    device: str
    """`cuda:0` or `cpu:0-3`."""
    total: float
    """Bytes in all."""
    free: float
    """Bytes that are free now."""


def find_model(home: Home, settings: VllmSettings, model: str) -> Path | None:
    """The folder of a model on this machine; None where it must be fetched, which `download` allows.

    Raises InvalidInput for what is no name and for a folder outside of the model root that the engine's settings
    do not name, NotFound (MODEL_NOT_FOUND) with the models there are.
    """
    if not model:
        raise InvalidInput.field("model", "", "the name of a model", "Configure one for the engine, or name it.")
    root = home.models
    path = Path(model) if model.startswith("/") else root / model
    inside = path.resolve().is_relative_to(root.resolve()) or model == settings.model
    if not inside or (not model.startswith("/") and not _HUB_ID.match(model)):
        raise InvalidInput.field("model", model, f"a name on the hub, or a folder under the model root {root.name}/")
    if (path / "config.json").is_file():
        return path.resolve()
    cached = None if model.startswith("/") else _cached(model)
    if cached is None and (model.startswith("/") or not settings.download):
        there = ", ".join(list_models(home)[:20]) or "none"
        raise NotFound(
            f"Model {model!r} is not on this machine. There are: {there}. Put its folder under the model root, or set "
            f"download = true for engine {settings.name!r}.",
            reason="MODEL_NOT_FOUND",
            facts={"model": model, "models": there},
        )
    return cached


def list_models(home: Home) -> list[str]:
    """Names of the models on this machine: folders under the model root, and what the hub's cache has."""
    found = {str(p.parent.relative_to(home.models)) for p in home.models.glob("*/config.json")}
    found |= {str(p.parent.relative_to(home.models)) for p in home.models.glob("*/*/config.json")}
    found |= {"/".join(p.name.split("--")[1:]) for p in _cache_folder().glob("models--*") if _snapshot(p)}
    return sorted(found)


def _cache_folder() -> Path:
    base = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(base) / "hub")


def _cached(model: str) -> Path | None:
    return _snapshot(_cache_folder() / ("models--" + model.replace("/", "--")))


def _snapshot(folder: Path) -> Path | None:
    """The newest complete snapshot in a cached model's folder."""
    reference = folder / "refs" / "main"
    names = [reference.read_text().strip()] if reference.is_file() else []
    found = [folder / "snapshots" / name for name in names]
    return next((p for p in found if (p / "config.json").exists()), None)


def has_chat_template(folder: Path) -> bool:
    """Whether a model's tokenizer brings a chat template."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    return bool(_json(folder / "tokenizer_config.json", {}).get("chat_template"))


def context_of(folder: Path | None, settings: VllmSettings) -> int:
    """Tokens of prompt and answer together: as configured, but no more than the model can; 0 to leave it to vLLM."""
    config = _config(folder) if folder else {}
    own = _int(config, "max_position_embeddings", 0)
    return min(settings.max_model_len, own) if own and settings.max_model_len else settings.max_model_len


def _config(folder: Path) -> dict[str, Any]:
    """A model's configuration; that of its text part where it has several."""
    config = _json(folder / "config.json", {})
    return {**config, **_mapping(config.get("text_config"))}


def weight_bytes(folder: Path, *, wide: bool) -> float:
    """Bytes of a model's parameters as vLLM holds them: 32-bit floats halved unless `wide`. Raises Corrupt."""
    files = sorted(folder.glob("*.safetensors"))
    total = 0.0
    for file in files:
        for name, entry in _header(file).items():
            if name != "__metadata__":
                size = 1
                for length in entry["shape"]:
                    size *= length
                held = _BYTES.get(entry["dtype"], 1)
                total += size * (2 if held == 4 and entry["dtype"] == "F32" and not wide else held)
    if not files:
        total = float(sum(p.stat().st_size for p in [*folder.glob("*.bin"), *folder.glob("*.gguf")]))
    return total


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        size = stream.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        body = stream.read(length) if 0 < length <= _HEADER_LIMIT else b""
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError) as error:
        raise Corrupt(
            f"{file.name} is no safetensors file. Fetch the model again.", facts={"file": file.name}
        ) from error


def _json(file: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return otherwise


def model_memory(folder: Path, settings: VllmSettings, *, on_gpu: bool) -> ModelMemory:
    """An estimate of what one process holds, from below: the least with which it can work. Raises Corrupt.

    Cache of one token: 2 (keys, values) x layers x heads of keys x width of a head x 2 bytes.
    """
    config = _config(folder)
    hidden, heads = _int(config, "hidden_size", 1024), max(_int(config, "num_attention_heads", 1), 1)
    width = _int(config, "head_dim", hidden // heads)
    a_token = 4.0 * _int(config, "num_hidden_layers", 1) * _int(config, "num_key_value_heads", heads) * width
    length = context_of(folder, settings) or _int(config, "max_position_embeddings", 4096)
    logits = 4.0 * settings.max_num_seqs * _int(config, "vocab_size", 32_000)
    batch = 2.0 * _BATCHED_TOKENS * (4 * hidden + 2 * _int(config, "intermediate_size", 4 * hidden))
    cache = a_token * length if on_gpu else max(settings.kv_cache_gb * GB, a_token * length)
    return ModelMemory(
        weights=weight_bytes(folder, wide="--dtype=float32" in settings.flags),
        cache=cache,
        work=logits + batch + (_GPU_CONTEXT_BYTES if on_gpu else _CPU_PROCESS_BYTES),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _int(config: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def check_room(settings: VllmSettings, model: str, folder: Path, rooms: Sequence[Room]) -> None:
    """Refuses a model that cannot work on one of the devices that it is meant for. Raises LimitReached."""
    for room in rooms:
        on_gpu = room.device.startswith("cuda")
        needs = model_memory(folder, settings, on_gpu=on_gpu)
        allowed = room.total * settings.memory_fraction if on_gpu else room.free
        if needs.total <= allowed:
            continue
        share = f", of which memory_fraction allows {allowed / GB:.1f} GB" if on_gpu else f", {room.free / GB:.1f} free"
        raise LimitReached(
            f"Model {model!r} needs about {needs}; {room.device} has {room.total / GB:.1f} GB{share}. "
            "Use a smaller or quantised model, lower max_model_len or max_num_seqs, or name a larger device.",
            facts={
                "model": model,
                "device": room.device,
                "required_gb": f"{needs.total / GB:.1f}",
                "available_gb": f"{allowed / GB:.1f}",
            },
        )
