"""Loads a language model cut off after one block: later blocks are neither downloaded, read nor allocated.

A staging folder of links with a rewritten config (fewer blocks, no custom code) and a filtered
index is all that transformers sees; it works offline and reads safetensors only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mistudio_core.errors import Unsupported
from mistudio_core.secret import Secret
from mistudio_torch.lm.facts import ConfigShape, ModelFacts, invalid, parse_config
from mistudio_torch.lm.source import (
    INDEX,
    TOKENIZER_FILES,
    ModelSource,
    check_layer,
    facts_of,
    resolve,
    weight_files,
)

_UNUSED = ("pooler.", "lm_head.", "cls.", "score.", "classifier.")
"""Parts that no residual stream depends on: they may lack weights."""
_ENCODERS = ("t5", "mt5", "umt5")
"""Encoder-decoder families of which the encoder alone is loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedLM:
    """A model ready to be read after its last kept block."""

    model: nn.Module
    """In eval mode, without gradients."""
    block: nn.Module
    """The last kept block: its output is the residual stream."""
    tokenizer: Any
    """Fast tokenizer."""
    facts: ModelFacts
    """Facts of the whole model."""
    layer: int
    """Index of `block`."""
    device: torch.device
    """Where it is."""
    pad_id: int
    """Token for padding; masked, so any token does."""
    bos_id: int | None
    """Token to put before each sequence where the tokenizer adds none itself; None where it does."""
    model_class: str
    """Name of the transformers class."""


def load_lm(
    name: str,
    layer: int | Callable[[ModelFacts], int],
    *,
    token: Secret | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    cache_dir: Path | None = None,
    model_root: Path | None = None,
    watch: Callable[[], None] | None = None,
) -> LoadedLM:
    """Blocks 0..layer of a model.

    `layer` may be a function of the facts, which may also refuse, before any weight is fetched;
    `watch` is called while files are downloaded and may raise. Raises what inspect_model does, and
    InvalidInput (LAYER_OUT_OF_RANGE).
    """
    source = resolve(name, token=token, model_root=model_root, cache_dir=cache_dir, watch=watch)
    facts = facts_of(source)
    layer = layer if isinstance(layer, int) else layer(facts)
    check_layer(facts, layer)
    config, shape = parse_config(name, source.path("config.json").read_bytes())
    with tempfile.TemporaryDirectory(prefix="mistudio-model-") as folder:
        _stage(Path(folder), source, config, shape, layer)
        with _quiet():
            tokenizer = _tokenizer(name, Path(folder), shape)
            model = _model(name, Path(folder), shape, dtype)
    # Weights are memory-mapped copies by now; `to` moves them off the mapped files.
    model = model.to(torch.device(device)).eval().requires_grad_(requires_grad=False)
    return LoadedLM(
        model=model,
        block=find_block(name, model, layer),
        tokenizer=tokenizer,
        facts=facts,
        layer=layer,
        device=torch.device(device),
        pad_id=next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0),
        bos_id=_bos_to_add(tokenizer),
        model_class=type(model).__name__,
    )


def _stage(folder: Path, source: ModelSource, config: dict[str, Any], shape: ConfigShape, layer: int) -> None:
    """Fills the staging folder: config and index rewritten, weights and vocabularies as links."""
    (folder / "config.json").write_text(json.dumps(truncated_config(config, shape, layer)))
    wanted = weight_files(source, layer)
    for file in wanted:
        (folder / file).symlink_to(source.path(file).resolve())
    weight_map = {tensor: file for file, tensors in wanted.items() for tensor in tensors or ()}
    if weight_map:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file in sorted(source.files.intersection(TOKENIZER_FILES)):
        if file.endswith("_config.json"):
            (folder / file).write_text(json.dumps(_without_code(source.name, source.path(file))))
        else:
            (folder / file).symlink_to(source.path(file).resolve())


def truncated_config(config: dict[str, Any], shape: ConfigShape, layer: int) -> dict[str, Any]:
    """The config of the same model with blocks 0..layer: lists with one entry a block are cut as well."""
    kept = {k: v for k, v in config.items() if k not in ("auto_map", "quantization_config", "_name_or_path")}
    for key, value in kept.items():
        if isinstance(value, list) and len(value) == shape.total_layers and key != "architectures":
            kept[key] = value[: layer + 1]
    kept[shape.layers_key] = layer + 1
    if "num_decoder_layers" in kept:
        kept["num_decoder_layers"] = layer + 1
    return kept


def _without_code(name: str, path: Path) -> dict[str, Any]:
    """A tokenizer config without references to custom code."""
    try:
        config = json.loads(path.read_bytes())
        return {k: v for k, v in config.items() if k not in ("auto_map", "name_or_path")}
    except (ValueError, AttributeError, RecursionError) as error:
        raise invalid(name, f"{path.name} is not a JSON object") from error


def _tokenizer(name: str, folder: Path, shape: ConfigShape) -> Any:
    """The fast tokenizer. Raises Unsupported where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise invalid(name, f"its tokenizer cannot be loaded ({type(error).__name__})") from error
    if not tokenizer.is_fast:
        raise Unsupported(
            f"the tokenizer of {name}", why="it gives no character offsets", instead="Add a tokenizer.json."
        )
    if len(tokenizer) > shape.vocab_size and max(tokenizer.get_vocab().values()) >= shape.vocab_size:
        raise invalid(name, f"its tokenizer has tokens beyond the model's vocabulary of {shape.vocab_size}")
    return tokenizer


def _model(name: str, folder: Path, shape: ConfigShape, dtype: torch.dtype) -> nn.Module:
    """The model from the staging folder. Raises InvalidInput (MODEL_INVALID)."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if shape.architecture not in CONFIG_MAPPING:
        raise Unsupported(
            f"architecture {shape.architecture!r}",
            why="transformers has no code for it, and a model's own code is never run",
            instead="Choose a model of a known architecture.",
        )
    loader = AutoModelForTextEncoding if shape.architecture in _ENCODERS else AutoModel
    try:
        model, info = loader.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise invalid(name, f"its weights do not load ({type(error).__name__}: {str(error)[:200]})") from error
    missing = [key for key in info["missing_keys"] if not key.startswith(_UNUSED)]
    if missing:
        raise invalid(name, f"{len(missing)} weights are missing, for example {sorted(missing)[0]}")
    result: nn.Module = model
    return result


def find_block(name: str, model: nn.Module, layer: int) -> nn.Module:
    """The block `layer`: entry of the outermost module list with layer + 1 blocks. Raises Unsupported."""
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layer + 1:
            return module[layer]
    raise Unsupported(f"model {name}", why="its list of blocks was not found", instead="Choose another model.")


def _bos_to_add(tokenizer: Any) -> int | None:
    """The BOS token where the tokenizer has one but adds no special token itself (GPT-2)."""
    if len(tokenizer("a")["input_ids"]) > len(tokenizer("a", add_special_tokens=False)["input_ids"]):
        return None
    bos: int | None = tokenizer.bos_token_id
    return bos


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from writing bars and load reports to the terminal."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
