"""The parts of a model, by detection on names: where its blocks are, and what attention and MLP add to the stream.

Works on the names of weights in safetensors headers and on those of live modules alike, so it knows
families by their parts and not by a list of models. Imports no torch, reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mistudio_core.errors import Unsupported

_BLOCK = re.compile(r"^(?P<blocks>(?:.*?\.)?(?:layers?|h|blocks?))\.(?P<number>\d+)(?:\.|$)")
_KEPT_ROOTS = ("encoder", "decoder")
_ATTENTION = (
    "attention.output.dense",
    "post_self_attn_layernorm",
    "self_attn.o_proj",
    "self_attn.dense",
    "self_attn.out_proj",
    "self_attention.dense",
    "attention.dense",
    "attention.out_lin",
    "attention.out_proj",
    "attention.o",
    "attn.attention.out_proj",
    "attn.c_proj",
    "attn.out_proj",
    "attn.o_proj",
    "attn.Wo",
    "layer.0.SelfAttention.o",
    "self_attn",
    "attention",
    "attn",
)
"""Where attention's addition to the residual stream leaves a block, first match first."""
_MLP = (
    "post_mlp_layernorm",
    "mlp.down_proj",
    "mlp.dense_4h_to_h",
    "mlp.c_proj",
    "mlp.fc_out",
    "mlp.fc2",
    "mlp.Wo",
    "ffn.lin2",
    "ffn.down_proj",
    "fc2",
    "layer.1.DenseReluDense.wo",
    "mlp",
    "feed_forward",
    "ffn",
)
"""The same of the MLP."""
_NORMS_AFTER = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
"""Families that normalise what they add (Gemma 2 and 3, OLMo 2): the norm's output is what is added."""
_NOT_OF_TOKENS = re.compile(
    r"(^|\.)(wpe|position_embeddings|embed_positions|rel_embeddings|relative_attention_bias|pooler|rotary_emb|experts"
    r"|router|gate|[qk]_(norm|layernorm)|pos_(key|query)(_proj)?|encoder\.LayerNorm)(\.|$)"
)
"""Modules whose output is not one vector for each token of a batch."""
_BEFORE_BLOCKS = re.compile(r"(^|\.)(\w*emb\w*|wte|wpe|shared|drop\w*)(\.|$)")
_EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared)$")
_RENAMED = {"block_sparse_moe": "mlp"}
"""Parts that transformers calls otherwise than the published files (Mixtral)."""
_HEADS = ("lm_head", "embed_out", "pooler", "cls", "score", "classifier", "qa_outputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The parts of one model; paths are those of its base class, without the prefix of a class with a head."""

    model_name: str
    """The name that was asked for."""
    blocks: str
    """Path of the list of blocks, for example `encoder.layer`; empty where the weights show none."""
    total_layers: int
    """Number of blocks."""
    hidden_size: int
    """Width of the residual stream."""
    prefix: str
    """What a class with a head puts before these paths, for example `model`; empty for none."""
    modules: Mapping[str, int | None]
    """Modules with weights, in order -> width of what they give each token; None where the header does not say."""

    def block(self, number: int) -> str:
        """Path of a block."""
        return f"{self.blocks}.{number}"

    def without_prefix(self, path: str) -> str:
        """A path as the base class has it, where it was written as in a class with a head."""
        for prefix in {self.prefix, "model", "transformer"} - {""}:
            rest = path.removeprefix(prefix + ".")
            inside = rest in self.modules or rest.startswith(f"{self.blocks}.")
            if rest != path and inside and path not in self.modules and not path.startswith(f"{self.blocks}."):
                return rest
        return path

    def number_of(self, path: str) -> int | None:
        """The block that a path is inside of; None for what is outside of blocks."""
        found = _BLOCK.match(path)
        return int(found.group("number")) if found and found.group("blocks") == self.blocks else None

    def deepest_needed(self, path: str) -> int:
        """The last block that must be there to run the module at `path`."""
        number = self.number_of(path)
        if number is not None:
            return number
        return 0 if _BEFORE_BLOCKS.search(path) else self.total_layers - 1

    def children(self, number: int) -> list[str]:
        """Paths of the modules in a block, relative to it."""
        start = self.block(number) + "."
        return [path.removeprefix(start) for path in self.modules if path.startswith(start)]

    def part(self, kind: str, number: int) -> str | None:
        """Path of the module whose output is `attn_out` or `mlp_out` of a block; None where none is known."""
        inner = part_of_block(kind, self.children(number))
        return None if inner is None else f"{self.block(number)}.{inner}"


def part_of_block(kind: str, children: Collection[str]) -> str | None:
    """Which child of a block gives what attention (`attn_out`) or the MLP (`mlp_out`) adds to the residual stream."""
    if _NORMS_AFTER["mlp_out"] in children and _NORMS_AFTER["attn_out"] in children:
        return _NORMS_AFTER[kind]
    if kind == "mlp_out" and "intermediate.dense" in children and "output.dense" in children:
        return "output.dense"
    return next((name for name in (_ATTENTION if kind == "attn_out" else _MLP) if name in children), None)


def anatomy_of(
    model_name: str, architecture: str, total_layers: int, hidden_size: int, shapes: Mapping[str, tuple[int, ...]]
) -> Anatomy:
    """From the shapes of a model's weights, by name; () where only the name is known."""
    blocks = _blocks_of(shapes)
    root = blocks.partition(".")[0]
    plain = root in _KEPT_ROOTS or "." not in blocks or (architecture == "distilbert" and root == "transformer")
    prefix = "" if plain else root
    modules = _modules(shapes, prefix, encoder_only=blocks.startswith("encoder"))
    blocks = blocks.removeprefix(prefix + ".") if prefix else blocks
    leaves = Anatomy(
        model_name=model_name,
        blocks=blocks,
        total_layers=total_layers,
        hidden_size=hidden_size,
        prefix=prefix,
        modules=modules,
    )
    return _with_containers(leaves)


def _blocks_of(names: Iterable[str]) -> str:
    """Path of the list of blocks, as the weights spell it; an encoder's where there is a decoder too."""
    matches = (match for match in map(_BLOCK.match, names) if match)
    paths = dict.fromkeys(match.group("blocks") for match in matches)
    return min(paths, key=lambda p: ("decoder" in p.split("."), p.count(".")), default="")


def _modules(shapes: Mapping[str, tuple[int, ...]], prefix: str, *, encoder_only: bool) -> dict[str, int | None]:
    """Leaf modules of the base class and their output widths, blocks in the order of their numbers."""
    weights: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        path, _, weight = name.rpartition(".")
        if prefix:
            if not path.startswith(prefix + "."):
                continue
            path = path.removeprefix(prefix + ".")
        path = ".".join(_RENAMED.get(part, part) for part in path.split("."))
        path = "encoder.embed_tokens" if encoder_only and path == "shared" else path
        first = path.partition(".")[0]
        if path and first not in _HEADS and not (encoder_only and first == "decoder"):
            weights.setdefault(path, {})[weight] = shape
    return {path: _width(path, weights[path]) for path in sorted(weights, key=natural)}


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts `layers.10` after `layers.9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.split(".")]


def _width(path: str, weights: Mapping[str, tuple[int, ...]]) -> int | None:
    """What a leaf gives each token: by its bias, the width of an embedding or a norm, or the rows of a matrix."""
    bias, weight = weights.get("bias", ()), weights.get("weight", weights.get("gamma", ()))
    if len(bias) == 1:
        return bias[0]
    if len(weight) == 1:
        return weight[0]
    if len(weight) == 2:
        return weight[1] if _EMBEDDING.search(path) else weight[0]
    return None


def _with_containers(leaves: Anatomy) -> Anatomy:
    """Adds the modules that hold others; what ends in an addition to the stream has the stream's width."""
    found = (step for path in leaves.modules for step in _parents(leaves, path))
    widths: dict[str, int | None] = dict.fromkeys(parent for parent, child in found if not child.isdecimal())
    widths |= leaves.modules
    whole = replace(leaves, modules=widths)
    for number in range(leaves.total_layers if leaves.blocks else 0):
        for end in filter(None, (whole.part(kind, number) for kind in ("attn_out", "mlp_out"))):
            for path in (end, *(parent for parent, _ in _parents(leaves, end))):
                if path in widths:
                    widths[path] = leaves.hidden_size
    return replace(leaves, modules={path: widths[path] for path in sorted(widths, key=natural)})


def _parents(found: Anatomy, path: str) -> Iterator[tuple[str, str]]:
    """The modules inside of a block that hold `path`, innermost first, each with the name of what it holds."""
    parent, _, child = path.rpartition(".")
    while parent and found.number_of(parent) is not None:
        yield parent, child
        parent, _, child = parent.rpartition(".")


def gives_tokens(path: str) -> bool:
    """Whether a module may give one vector for each token of a batch, by its name."""
    return _NOT_OF_TOKENS.search(path) is None


def no_blocks(model_name: str) -> Unsupported:
    """The error for a model whose list of blocks is not found."""
    return Unsupported(f"model {model_name}", why="its list of blocks was not found", instead="Choose another model.")
