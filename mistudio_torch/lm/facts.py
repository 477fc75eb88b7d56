"""What is known of a model before its weights are read: config ranges and safetensors headers.

Checks `config.json` and headers itself, before transformers sees them; imports neither torch nor
transformers. Where the files come from is `source`'s business.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput, Unsupported

CONFIG_BYTES = 1 << 20
HEADER_BYTES = 100 << 20
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")
_RANGES = {"layers": (1, 1000), "width": (1, 1 << 16), "vocabulary": (1, 4_000_000), "positions": (8, 1 << 27)}
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "data2vec-text")
"""Families whose position table starts at pad_token_id + 1."""
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_ENCODER = re.compile(r"^(?:model\.)?encoder\.")
_DECODER = re.compile(r"^(?:model\.)?decoder\.")
_HEAD = re.compile(r"^(?:lm_head|embed_out|cls|score|classifier|qa_outputs|generator_\w+|discriminator_\w+)\.")
"""Parts of a published model that its base class does not have."""
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared)\.weight$")
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Shape and size of a model; no weights."""

    model_name: str
    """The name that was asked for."""
    architecture: str
    """`model_type` of its config, for example `bert`."""
    total_layers: int
    """Number of transformer blocks."""
    hidden_size: int
    """Width of the residual stream."""
    vocab_size: int
    """Size of the vocabulary."""
    max_positions: int
    """Longest sequence it takes, tokens."""
    requires_token: bool
    """Whether the hub asks for a token."""
    weight_bytes: int
    """Bytes of all tensors; 0 where headers could not be read."""
    parameters: int
    """Number of weights; 0 where headers could not be read."""
    block_parameters: int
    """Weights of the largest block; 0 where unknown."""
    other_parameters: int
    """Weights outside of the blocks; 0 where unknown."""
    dtype: str
    """Number format of most weights, as safetensors names it (`F32`, `BF16`); empty where unknown."""
    revision: str
    """Hub commit, or SHA-256 of config and headers."""
    linear_parameters: int = 0
    """Weights of that block that are matrices: what quantisation packs; 0 where unknown."""
    embedding_parameters: int = 0
    """Weights of the token embedding, part of `other_parameters`; 0 where unknown."""
    head_parameters: int = 0
    """Weights outside of the blocks that no residual stream needs (an untied head): they are not loaded."""
    feed_forward_size: int = 0
    """Width of the feed-forward layer; 0 where the config does not say."""
    attention_heads: int = 0
    """Heads of queries; 0 where the config does not say."""
    key_value_heads: int = 0
    """Heads of keys and values; 0 where the config does not say."""
    head_size: int = 0
    """Width of a head; 0 where the config does not say."""

    def parameters_up_to(self, layer: int) -> int:
        """Weights that are loaded to read block `layer`."""
        return self.other_parameters - self.head_parameters + (layer + 1) * self.block_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigShape:
    """The part of a config that miStudio relies on, checked."""

    architecture: str
    """`model_type`."""
    layers_key: str
    """The key that holds the number of blocks."""
    total_layers: int
    """Number of blocks."""
    hidden_size: int
    """Width."""
    vocab_size: int
    """Vocabulary."""
    max_positions: int
    """Longest sequence, tokens."""
    feed_forward_size: int = 0
    """Width of the feed-forward layer; 0 where it does not say."""
    attention_heads: int = 0
    """Heads of queries; 0 where it does not say."""
    key_value_heads: int = 0
    """Heads of keys and values; 0 where it does not say."""
    head_size: int = 0
    """Width of a head; 0 where it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """Totals over safetensors headers."""

    parameters: int
    """All weights."""
    weight_bytes: int
    """Their bytes."""
    block_parameters: int
    """Weights of the largest block."""
    other_parameters: int
    """Weights outside of blocks."""
    dtype: str
    """Format of most weights."""
    linear_parameters: int = 0
    """Weights of the largest block that are matrices."""
    embedding_parameters: int = 0
    """Weights of the token embedding."""
    head_parameters: int = 0
    """Weights outside of blocks that are not loaded."""


def invalid(name: str, why: str) -> InvalidInput:
    """The error for a model that cannot be used as it is."""
    return InvalidInput(
        f"Model {name} cannot be used: {why}. Choose another model or repair its files.",
        reason="MODEL_INVALID",
        facts={"model_name": name, "why": why},
    )


def parse_config(name: str, raw: bytes) -> tuple[dict[str, Any], ConfigShape]:
    """A config.json as (object, checked shape). Raises InvalidInput (MODEL_INVALID), Unsupported."""
    if len(raw) > CONFIG_BYTES:
        raise invalid(name, f"config.json is larger than {CONFIG_BYTES} bytes")
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid(name, "config.json is not JSON") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise invalid(name, "config.json names no model_type")
    if "text_config" in config:
        raise Unsupported(f"model {name}", why="its config nests several models", instead="Use its text-only sibling.")
    if config.get("quantization_config"):
        raise Unsupported(
            f"model {name}",
            why="its weights are quantised already, with scales of their own",
            instead="Use the model that it was made from; 4 or 8 bits are made of that one when it is loaded.",
        )
    architecture = config["model_type"][:100]
    layers_key = next((k for k in _LAYER_KEYS if k in config), "num_hidden_layers")
    positions = _number(name, config, _POSITION_KEYS, "positions", default=512)
    if architecture in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    return config, ConfigShape(
        architecture=architecture,
        layers_key=layers_key,
        total_layers=_number(name, config, (layers_key,), "layers"),
        hidden_size=_number(name, config, _WIDTH_KEYS, "width"),
        vocab_size=_number(name, config, ("vocab_size",), "vocabulary"),
        max_positions=positions,
        **_inner_sizes(config),
    )


def _inner_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes inside of a block as far as the config gives them as sane numbers; they matter for plans alone."""

    def size(*keys: str) -> int:
        found = next((config[k] for k in keys if config.get(k) is not None), 0)
        return found if type(found) is int and 0 < found <= 1 << 20 else 0

    heads = size("num_attention_heads", "n_head", "n_heads", "num_heads")
    width = size(*_WIDTH_KEYS)
    return {
        "feed_forward_size": size("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim") or 4 * width,
        "attention_heads": heads,
        "key_value_heads": size("num_key_value_heads") or heads,
        "head_size": size("head_dim", "d_kv") or (width // heads if heads else 0),
    }


def _number(name: str, config: Mapping[str, Any], keys: tuple[str, ...], what: str, default: int | None = None) -> int:
    """The first of `keys` that is there, in range."""
    key = next((k for k in keys if config.get(k) is not None), None)
    if key is None:
        if default is not None:
            return default
        raise invalid(name, f"config.json lacks {keys[0]}")
    value, (least, most) = config[key], _RANGES[what]
    if type(value) is not int or not least <= value <= most:
        raise invalid(name, f"{key} in config.json is {str(value)[:40]}, outside of {least} to {most}")
    return value


def read_header(path: Path) -> bytes:
    """The JSON header of a safetensors file, nothing else of it. Raises ValueError for what is none."""
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= HEADER_BYTES:
            raise ValueError("no safetensors header")
        header = handle.read(length)
    if len(header) != length:
        raise ValueError("truncated header")
    return header


def parse_header(raw: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Reads name -> (dtype, shape) from a header. Raises ValueError for what is none."""
    entries = json.loads(raw)
    if not isinstance(entries, dict):
        raise TypeError("header is no object")
    tensors = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            tensors[name] = (str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
    return tensors


def sum_tensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Tensors:
    """Totals over the tensors of all files. Of an encoder-decoder model, blocks are the encoder's."""
    blocks: dict[int, int] = {}
    matrices: dict[int, int] = {}
    by_dtype: dict[str, int] = {}
    other = embedding = head = size = 0
    both = any(_ENCODER.match(n) for n in tensors) and any(_DECODER.match(n) for n in tensors)
    for name, (dtype, shape) in tensors.items():
        count = math.prod(shape)
        size += count * _ITEM_BYTES.get(dtype, 4)
        by_dtype[dtype] = by_dtype.get(dtype, 0) + count
        block = block_of(name)
        if both and _DECODER.match(name):
            continue
        if block is None:
            other += count
            head += count if _HEAD.match(name) else 0
            embedding = max(embedding, count if _EMBEDDING.search(name) else 0)
            continue
        blocks[block] = blocks.get(block, 0) + count
        if len(shape) == 2 and min(shape) > 1 and "bias" not in name:
            matrices[block] = matrices.get(block, 0) + count
    return Tensors(
        parameters=sum(by_dtype.values()),
        weight_bytes=size,
        block_parameters=max(blocks.values(), default=0),
        other_parameters=other,
        dtype=max(by_dtype, key=lambda d: by_dtype[d], default=""),
        linear_parameters=max(matrices.values(), default=0),
        embedding_parameters=embedding,
        head_parameters=head,
    )


def block_of(tensor_name: str) -> int | None:
    """Index of the block that a tensor belongs to; None for embeddings, norms and heads."""
    found = _BLOCK.search(tensor_name)
    return int(found.group(1)) if found else None
