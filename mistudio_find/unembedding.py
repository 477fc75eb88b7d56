"""The matrix with which a causal model turns its residual stream into logits, read from its files with numpy alone.

Found from config.json and the headers of the safetensors files, the scale of the last norm folded in; nothing
is downloaded and no model is made. What is not found is Unsupported. V vocabulary, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import NotFound, Unavailable, Unsupported
from mistudio_find.corpus_index import Array
from mistudio_torch.codes.tensorfile import let_go
from mistudio_torch.lm.anatomy import Anatomy, anatomy_of
from mistudio_torch.lm.facts import ConfigShape, block_of, parse_config, read_header
from mistudio_torch.lm.hookpoints import BLOCK_KINDS, parse_hook
from mistudio_torch.lm.source import ModelSource, described, resolve, weight_files

_HEAD = re.compile(r"^(?:\w+\.)*(?:lm_head|embed_out)\.weight$")
_EMBEDDING = re.compile(r"^(?:\w+\.)*(?:embed_tokens|wte|word_embeddings|embed_in)\.weight$")
_NORM = re.compile(r"^(?:\w+\.)*(?:norm|ln_f|norm_f|final_layer_norm|final_layernorm|final_norm)\.(weight|bias)$")
_TIED = (
    *("bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt-sw3", "gpt2"),
    *("gpt_bigcode", "gpt_neo", "mpt", "opt", "recurrent_gemma", "smollm3", "starcoder2", "xglm"),
)
"""Families that use the embedding as their head unless their config says otherwise."""
_BOTH_WAYS = (
    *(
        "albert",
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "megatron-bert",
    ),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl"),
    *(
        "xlnet",
        "xmod",
        "bart",
        "mbart",
        "pegasus",
        "marian",
        "blenderbot",
        "blenderbot-small",
        "bigbird_pegasus",
        "plbart",
    ),
)
"""Families with a next-token head that read what comes after a token, unless their config makes them decoders."""
_ONE_PLUS = ("gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma", "vaultgemma", "nemotron", "qwen3_next")
"""Families whose norms multiply with 1 + weight."""
_RMS_ALL_THE_SAME = ("mamba", "mamba2", "falcon_mamba")
"""Families whose config speaks of layer norm where it means the root of the mean square."""
_LAYER_NORM = ("layer_norm_epsilon", "layer_norm_eps", "layernorm_epsilon", "norm_epsilon", "do_layer_norm_before")
"""Keys of configs whose families have layer norms."""
_BYTES: Mapping[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_INSTEAD = "They are left out."


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor of a safetensors file, mapped."""

    raw: Array
    """As it is in the file; the bits of bfloat16 numbers."""
    is_bfloat: bool
    """Whether it is bfloat16."""

    def read(self, first: int, last: int) -> Array:
        """float32: rows first..last - 1."""
        part = np.array(self.raw[first:last])
        let_go(self.raw)
        wide = (part.astype(np.uint32) << np.uint32(16)).view(np.float32) if self.is_bfloat else part
        return wide.astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unembedding:
    """What turns directions of the residual stream into changes of logits."""

    matrix: Stored
    """(V, D)."""
    scale_D: Array
    """float32 (D,): what the last norm multiplies with."""
    centres: bool
    """Whether the last norm takes the mean over the width off, as LayerNorm does."""
    tokenizer: Path
    """The model's tokenizer.json."""

    @property
    def shape(self) -> tuple[int, int]:
        """(V, D)."""
        return int(self.matrix.raw.shape[0]), int(self.matrix.raw.shape[1])

    def rows(self, first: int, last: int) -> Array:
        """float32 (last - first, D): rows with the norm folded in; its division by the stream's size is left out."""
        folded_VD = self.matrix.read(first, last) * self.scale_D
        if self.centres:
            folded_VD -= folded_VD.mean(axis=1, keepdims=True)
        return folded_VD


def open_unembedding(
    model_name: str, hook_out: str, width: int, *, model_root: Path | None, revision: str = ""
) -> Unembedding:
    """The matrix for directions of `width` values that are added to the stream at `hook_out`.

    Raises Unsupported, with the reason in words, for a model that is not causal or not the one of `revision`,
    whose parts are not found, or whose files are not on this machine, and for a hook that is not of the residual
    stream. Other errors of `resolve` pass.
    """
    try:
        source = resolve(model_name, model_root=model_root, cached_only=True)
    except Unavailable as error:
        raise _refused(f"{model_name} is not on this machine") from error
    config, shape = parse_config(model_name, source.path("config.json").read_bytes())
    if not _is_causal(config):
        raise _refused(f"{model_name} does not predict the next token")
    facts, shapes = described(source)
    if revision and facts.revision != revision:
        raise _refused(f"the files of {model_name} are others than those that the SAE was trained on")
    anatomy = anatomy_of(model_name, shape.architecture, shape.total_layers, shape.hidden_size, shapes)
    if not _is_of_stream(hook_out, anatomy):
        raise _refused(f"what the SAE writes, {hook_out or 'unknown'}, is not added to the residual stream")
    if width != shape.hidden_size:
        raise _refused(f"the SAE writes {width} values and the residual stream has {shape.hidden_size}")
    tensors = _tensors(source)
    matrix = _matrix(tensors, config, shape)
    norm = {match.group(1): name for name in tensors if (match := _NORM.match(name))}
    if "tokenizer.json" not in source.files:
        raise _refused(f"{model_name} has no tokenizer.json")
    return Unembedding(
        matrix=matrix,
        scale_D=_scale(tensors, norm, shape),
        centres=_centres(config, norm),
        tokenizer=source.path("tokenizer.json"),
    )


def _refused(why: str) -> Unsupported:
    return Unsupported("finding promoted and suppressed tokens", why=why, instead=_INSTEAD)


def _is_causal(config: Mapping[str, Any]) -> bool:
    """Whether it predicts the next token from those before it, by its config."""
    kind, names = config["model_type"], [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder") or (kind in _BOTH_WAYS and not config.get("is_decoder")):
        return False
    return kind in _TIED or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _is_of_stream(hook_out: str, anatomy: Anatomy) -> bool:
    """Whether what is at a hook is the residual stream or is added to it."""
    if not hook_out:
        return False
    hook = parse_hook(hook_out)
    if hook.kind in BLOCK_KINDS:
        return True
    path = anatomy.without_prefix(hook.path)
    number = anatomy.number_of(path)
    if hook.of_input or number is None:
        return False
    added = [anatomy.part(kind, number) for kind in ("attn_out", "mlp_out")]
    return path == anatomy.block(number) or any(f"{part or ''}.".startswith(f"{path}.") for part in added)


def _tensors(source: ModelSource) -> dict[str, Path]:
    """Tensors outside of blocks -> their files, as far as these are on this machine. Raises Unsupported."""
    found: dict[str, Path] = {}
    for file, names in weight_files(source, -1).items():
        try:
            path = source.path(file)
        except (NotFound, Unavailable) as error:
            raise _refused(f"{file} of {source.name} is not on this machine") from error
        inside = json.loads(read_header(path)) if names is None else names
        found |= {str(name): path for name in inside if name != "__metadata__" and block_of(str(name)) is None}
    return found


def _matrix(tensors: Mapping[str, Path], config: Mapping[str, Any], shape: ConfigShape) -> Stored:
    """The head, or the embedding where it is the head. Raises Unsupported."""
    tied = bool(config.get("tie_word_embeddings", config["model_type"] in _TIED))
    for pattern in (_HEAD, *([_EMBEDDING] if tied else [])):
        for name in filter(pattern.match, tensors):
            found = _stored(tensors[name], name)
            if found.raw.ndim == 2 and found.raw.shape[1] == shape.hidden_size:
                return found
    raise _refused("its files have no head that turns the residual stream into logits")


def _scale(tensors: Mapping[str, Path], norm: Mapping[str, str], shape: ConfigShape) -> Array:
    """What the last norm multiplies with. Raises Unsupported for one that is not found, or of another width."""
    if "weight" not in norm:
        raise _refused("its last norm is not found among its weights")
    weight_D = _stored(tensors[norm["weight"]], norm["weight"]).read(0, shape.hidden_size)
    if weight_D.shape != (shape.hidden_size,):
        raise _refused(f"its last norm {norm['weight']} has another width than the residual stream")
    return weight_D + np.float32(1) if shape.architecture in _ONE_PLUS else weight_D


def _centres(config: Mapping[str, Any], norm: Mapping[str, str]) -> bool:
    """Whether the last norm is a LayerNorm and not one by the root of the mean square. Raises Unsupported."""
    if "bias" in norm:
        return True
    if config["model_type"] in _RMS_ALL_THE_SAME or any("rms" in key and "eps" in key for key in config):
        return False
    if any(key in config for key in _LAYER_NORM):
        return True
    raise _refused(f"the kind of the last norm of architecture {config['model_type']} is not known")


def _stored(path: Path, name: str) -> Stored:
    """One tensor, mapped. Raises Unsupported for a number format that is not read."""
    header = read_header(path)
    entry = json.loads(header)[name]
    if entry["dtype"] not in _BYTES:
        raise _refused(f"{name} is stored as {entry['dtype']}")
    offset = 8 + len(header) + entry["data_offsets"][0]
    raw = np.memmap(path, dtype=_BYTES[entry["dtype"]], mode="r", offset=offset, shape=tuple(entry["shape"]))
    return Stored(raw=raw, is_bfloat=entry["dtype"] == "BF16")


def token_texts(tokenizer: Path) -> Iterator[tuple[int, str]]:
    """(id, text) of every token of a vocabulary, with the blanks that belong to it."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tokenizer))
    of_bytes = "ByteLevel" in str(json.loads(found.to_str()).get("decoder"))
    for token, number in found.get_vocab(with_added_tokens=True).items():
        text = found.decoder.decode([token]) if of_bytes and found.decoder is not None else token.replace("\u2581", " ")
        yield number, text
