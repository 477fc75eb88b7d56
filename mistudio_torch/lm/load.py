"""Loads a language model cut off after the deepest block that any hook needs, ready to be read there.

Later blocks are neither downloaded, read nor allocated. Only the tokenizer is loaded from a folder, of links and
rewritten configs without custom code; weights come through `weights`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.secret import Secret
from mistudio_torch.lm.anatomy import gives_tokens, no_blocks, part_of_block
from mistudio_torch.lm.facts import ConfigShape, ModelFacts, invalid, parse_config
from mistudio_torch.lm.hookable import HookCatalogue, hooks_of
from mistudio_torch.lm.hookpoints import HookPoint, resid_post
from mistudio_torch.lm.hooks import Tap, capture
from mistudio_torch.lm.quantise import check_quantization
from mistudio_torch.lm.reader import TensorReader
from mistudio_torch.lm.source import TOKENIZER_FILES, ModelSource, check_layer, resolve
from mistudio_torch.lm.weights import Blueprint, Placement, quiet, stored_tensors

Hooks = int | Sequence[HookPoint] | Callable[[ModelFacts], Sequence[HookPoint]]
"""What is to be read: hooks, a block's number for the residual stream after it, or a function of the facts that says
which hooks and may refuse."""
_PROBE = (2, 4)
"""Sequences and tokens of the pass that shows each hook's width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedLM:
    """A model ready to be read at its hooks."""

    model: nn.Module
    """In eval mode, without gradients, blocks 0..layer."""
    taps: Mapping[str, Tap]
    """Hook name -> what is read for it."""
    widths: Mapping[str, int]
    """Hook name -> length of the vector of a token."""
    hooks: tuple[HookPoint, ...]
    """What is read, in the order that was asked for."""
    block: nn.Module
    """The last kept block."""
    layer: int
    """Index of `block`."""
    tokenizer: Any
    """Fast tokenizer."""
    facts: ModelFacts
    """Facts of the whole model."""
    device: torch.device
    """Where token ids go in."""
    pad_id: int
    """Token for padding; masked, so any token does."""
    bos_id: int | None
    """Token to put before each sequence where the tokenizer adds none itself; None where it does."""
    model_class: str
    """Name of the transformers class."""
    quantization: str
    """`none`, `nf4` or `int8`."""
    bytes_read: int
    """Bytes of weights that were read from files."""
    stored_bfloat16: bool
    """Whether all its matrices are bfloat16 in their files."""

    def width(self, hook: HookPoint | str) -> int:
        """Length of a hook's vector of a token. Raises KeyError for a hook that is not read."""
        return self.widths[hook if isinstance(hook, str) else hook.name]


def load_lm(
    name: str,
    hooks: Hooks,
    *,
    token: Secret | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    quantization: str = "none",
    embeddings_on_cpu: bool = False,
    device_map: str | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    cache_dir: Path | None = None,
    model_root: Path | None = None,
    watch: Callable[[], None] | None = None,
) -> LoadedLM:
    """A model up to the deepest block that `hooks` need; they are checked before any weight is fetched.

    `watch` is called while files are downloaded and read, and may raise; for the rest see Placement. Raises what
    inspect_model does; InvalidInput for a hook that is not there; Unsupported; LimitReached (INSUFFICIENT_MEMORY).
    """
    placement = Placement(
        device=device,
        dtype=dtype,
        quantization=quantization,
        embeddings_on_cpu=embeddings_on_cpu,
        device_map=device_map,
        max_memory=max_memory,
    )
    source = resolve(name, token=token, model_root=model_root, cache_dir=cache_dir, watch=watch)
    catalogue = hooks_of(source)
    wanted = _hooks(hooks, catalogue.facts)
    layer = _deepest(catalogue, wanted)
    config, shape = parse_config(name, source.path("config.json").read_bytes())
    cut = truncated_config(config, shape, layer)
    blueprint = Blueprint(name, cut, shape)
    taps_of(blueprint.model, catalogue, wanted, layer)
    check_quantization(quantization, blueprint.model, blocks_of(name, blueprint.model, layer))
    tokenizer = load_tokenizer(source, cut, shape)
    reader = TensorReader(watch)
    tensors = stored_tensors(source, reader, layer)
    model = blueprint.load(tensors, placement)
    taps = taps_of(model, catalogue, wanted, layer)
    place = _input_device(model, torch.device(device))
    return LoadedLM(
        model=model,
        taps=taps,
        widths=_widths(model, taps, place, shape.vocab_size),
        hooks=wanted,
        block=blocks_of(name, model, layer)[layer],
        layer=layer,
        tokenizer=tokenizer,
        facts=catalogue.facts,
        device=place,
        pad_id=next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0),
        bos_id=_bos_to_add(tokenizer),
        model_class=type(model).__name__,
        quantization=quantization,
        bytes_read=reader.bytes_read,
        stored_bfloat16=all(t.get_dtype() == "BF16" for t in tensors.values() if len(t.get_shape()) == 2),
    )


def _hooks(hooks: Hooks, facts: ModelFacts) -> tuple[HookPoint, ...]:
    """What was asked for, as hook points."""
    if isinstance(hooks, int):
        check_layer(facts, hooks)
        return (resid_post(hooks),)
    return tuple(hooks(facts) if callable(hooks) else hooks)


def _deepest(catalogue: HookCatalogue, hooks: Sequence[HookPoint]) -> int:
    """The last block that is kept. Raises InvalidInput for hooks that are not there, or given twice."""
    names = [hook.name for hook in hooks]
    if not names or len(set(names)) < len(names):
        raise InvalidInput.field("hook_name", ", ".join(names), "one hook or several, each once")
    return max(catalogue.check(hook) for hook in hooks)


def taps_of(model: nn.Module, catalogue: HookCatalogue, hooks: Sequence[HookPoint], layer: int) -> dict[str, Tap]:
    """The live module behind each hook, in a base model with blocks 0..layer. Raises InvalidInput, Unsupported."""
    modules = dict(model.named_modules())
    blocks = blocks_of(catalogue.facts.model_name, model, layer)
    taps: dict[str, Tap] = {}
    for hook in hooks:
        if hook.kind == "module":
            path = catalogue.anatomy.without_prefix(hook.path)
            module, of_input = modules.get(path), hook.of_input
        elif hook.kind == "resid_pre":
            module, of_input = blocks[max(hook.layer - 1, 0)], hook.layer == 0
        elif hook.kind == "resid_post":
            module, of_input = blocks[hook.layer], False
        else:
            block = blocks[hook.layer]
            part = part_of_block(hook.kind, dict(block.named_modules()).keys())
            module, of_input = (block.get_submodule(part) if part else None), False
        if module is None:
            raise catalogue.unknown(hook, [path for path in modules if path and gives_tokens(path)])
        taps[hook.name] = Tap(module=module, of_input=of_input)
    return taps


def blocks_of(name: str, model: nn.Module, layer: int) -> nn.ModuleList:
    """The outermost module list with layer + 1 blocks. Raises Unsupported."""
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layer + 1:
            return module
    raise no_blocks(name)


def _widths(model: nn.Module, taps: Mapping[str, Tap], device: torch.device, vocabulary: int) -> dict[str, int]:
    """Width of each hook, from one pass over a few tokens. Raises Unsupported for one that gives no vector a token."""
    ids_BT = torch.full(_PROBE, min(5, vocabulary - 1), dtype=torch.int64, device=device)
    found = capture(model, taps, ids_BT, torch.ones_like(ids_BT))
    return {name: found[name].shape[-1] for name in taps}


def _input_device(model: nn.Module, device: torch.device) -> torch.device:
    """Where ids go in: the first device of a map, else the one device."""
    places = getattr(model, "hf_device_map", {}).values()
    first = next((place for place in places if place not in ("cpu", "disk")), None)
    return device if first is None or device.type != "cpu" else torch.device(first)


def truncated_config(config: Mapping[str, Any], shape: ConfigShape, layer: int | None) -> dict[str, Any]:
    """The config of the same model with blocks 0..layer, or all; lists with one entry a block are cut as well."""
    kept = {k: v for k, v in config.items() if k not in ("auto_map", "_name_or_path")}
    if layer is None:
        return kept
    for key, value in kept.items():
        if isinstance(value, list) and len(value) == shape.total_layers and key != "architectures":
            kept[key] = value[: layer + 1]
    kept[shape.layers_key] = layer + 1
    if "num_decoder_layers" in kept:
        kept["num_decoder_layers"] = layer + 1
    return kept


def load_tokenizer(source: ModelSource, config: Mapping[str, Any], shape: ConfigShape) -> Any:
    """The fast tokenizer. Raises Unsupported where there is none."""
    from transformers import AutoTokenizer

    name = source.name
    with tempfile.TemporaryDirectory(prefix="mistudio-tokenizer-") as folder:
        _stage_tokenizer(Path(folder), source, config)
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(
                    folder, use_fast=True, trust_remote_code=False, local_files_only=True
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise invalid(name, f"its tokenizer cannot be loaded ({type(error).__name__})") from error
    if not tokenizer.is_fast:
        raise Unsupported(
            f"the tokenizer of {name}", why="it gives no character offsets", instead="Add a tokenizer.json."
        )
    if len(tokenizer) > shape.vocab_size and max(tokenizer.get_vocab().values()) >= shape.vocab_size:
        raise invalid(name, f"its tokenizer has tokens beyond the model's vocabulary of {shape.vocab_size}")
    return tokenizer


def _stage_tokenizer(folder: Path, source: ModelSource, config: Mapping[str, Any]) -> None:
    """Fills a folder with what a tokenizer is made of: vocabularies as links, configs without custom code."""
    (folder / "config.json").write_text(json.dumps(config))
    for file in sorted(source.files.intersection(TOKENIZER_FILES)):
        if file.endswith("_config.json"):
            (folder / file).write_text(json.dumps(_without_code(source.name, source.path(file))))
        else:
            (folder / file).symlink_to(source.path(file).resolve())


def _without_code(name: str, path: Path) -> dict[str, Any]:
    """A tokenizer config without references to custom code."""
    try:
        config = json.loads(path.read_bytes())
        return {k: v for k, v in config.items() if k not in ("auto_map", "name_or_path")}
    except (ValueError, AttributeError, RecursionError) as error:
        raise invalid(name, f"{path.name} is not a JSON object") from error


def _bos_to_add(tokenizer: Any) -> int | None:
    """The BOS token where the tokenizer has one but adds no special token itself (GPT-2)."""
    if len(tokenizer("a")["input_ids"]) > len(tokenizer("a", add_special_tokens=False)["input_ids"]):
        return None
    bos: int | None = tokenizer.bos_token_id
    return bos
