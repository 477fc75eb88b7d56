"""Builds a transformers model from a model's files: which class, which weights, onto which device.

Every weight is read once, by `reader`, into the memory it stays in or on its way to a device; nothing of
what comes after the last kept block is read. Models' own code is never run. Knows no hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mistudio_core.errors import Cancelled, InvalidInput, LimitReached, MistudioError, Unsupported
from mistudio_torch.lm.facts import ConfigShape, block_of, invalid
from mistudio_torch.lm.quantise import QUANTIZATIONS, quantization_config, settle
from mistudio_torch.lm.reader import StoredTensor, TensorReader
from mistudio_torch.lm.source import ModelSource, weight_files

ENCODERS = ("t5", "mt5", "umt5")
"""Encoder-decoder families of which the encoder alone is loaded."""
_UNUSED = ("pooler.", "lm_head.", "cls.", "score.", "classifier.")
"""Parts that no residual stream depends on: they may lack weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a model goes and in which form."""

    device: str = "cpu"
    """The device, or the first of several with `device_map`."""
    dtype: torch.dtype = torch.float32
    """Number format of weights that are not quantised, and of the computation."""
    quantization: str = "none"
    """One of QUANTIZATIONS."""
    embeddings_on_cpu: bool = False
    """Whether the token embedding stays in the host's memory while the rest is on a GPU."""
    device_map: str | None = None
    """`auto`: blocks are spread over all GPUs and then the host by accelerate; None: all on `device`."""
    max_memory: Mapping[int | str, int | str] | None = None
    """Most that `device_map` puts on each device, as accelerate takes it: `{0: "20GiB", "cpu": "60GiB"}`."""

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise InvalidInput.field("quantization", self.quantization, ", ".join(QUANTIZATIONS))
        if self.device_map not in (None, "auto"):
            raise InvalidInput.field("device_map", self.device_map, "auto, or nothing")
        if self.device_map is not None and self.embeddings_on_cpu:
            raise InvalidInput.field("embeddings_on_cpu", True, "false where device_map is auto, which places them")
        if self.max_memory is not None and self.device_map is None:
            raise InvalidInput.field("max_memory", dict(self.max_memory), "nothing, unless device_map is auto")


class Blueprint:
    """A model that has its modules and no weights yet: what hooks and quantisation are checked on."""

    def __init__(self, name: str, config: Mapping[str, Any], shape: ConfigShape, *, causal: bool = False) -> None:
        """From a checked config, cut already. Raises Unsupported, InvalidInput (MODEL_INVALID)."""
        from transformers.models.auto import configuration_auto, modeling_auto

        if shape.architecture not in configuration_auto.CONFIG_MAPPING:
            raise Unsupported(
                f"architecture {shape.architecture!r}",
                why="transformers has no code for it, and a model's own code is never run",
                instead="Choose a model of a known architecture.",
            )
        encoder = shape.architecture in ENCODERS
        mapping = modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING if encoder else modeling_auto.MODEL_MAPPING
        mapping = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING if causal else mapping
        with _readable(name):
            self.config = configuration_auto.CONFIG_MAPPING[shape.architecture].from_dict(dict(config))
            self.config.use_cache = False
            self.model_class = _class_of(mapping, self.config)
            self.options = _options(self.model_class)
            with torch.device("meta"):
                self.model: nn.Module = self.model_class(self.config, **self.options).eval()
        self.name = name
        self._may_lack = () if causal else _UNUSED
        self._heads = head_paths(self.model) if causal else []

    def load(self, tensors: Mapping[str, StoredTensor], placement: Placement) -> nn.Module:
        """The model with its weights, in eval mode, without gradients. Raises InvalidInput, LimitReached."""
        devices = _devices(self, placement)
        with quiet(), _readable(self.name):
            model, info = self.model_class.from_pretrained(
                None,
                config=self.config,
                state_dict=dict(tensors),
                dtype=placement.dtype,
                device_map=devices,
                quantization_config=quantization_config(
                    placement.quantization,
                    placement.dtype,
                    partly_on_cpu=placement.embeddings_on_cpu,
                    left=self._heads,
                ),
                output_loading_info=True,
                **self.options,
            )
        missing = sorted(key for key in info["missing_keys"] if not key.startswith(self._may_lack))
        if missing:
            raise invalid(self.name, f"{len(missing)} weights are missing, for example {missing[0]}")
        settle(model)
        if placement.embeddings_on_cpu and len(set(devices.values())) > 1:
            _embed_on_cpu(model, torch.device(placement.device))
        result: nn.Module = model.eval().requires_grad_(requires_grad=False)
        return result


def stored_tensors(source: ModelSource, reader: TensorReader, layer: int | None = None) -> dict[str, StoredTensor]:
    """The weights of a model by name, not read yet: of blocks 0..layer and of what is outside of blocks, or all."""

    def wanted(name: str) -> bool:
        block = block_of(name)
        return layer is None or block is None or block <= layer

    found: dict[str, StoredTensor] = {}
    for file in sorted(weight_files(source, layer)):
        with _readable(source.name):
            found.update(reader.tensors(source.path(file), wanted))
    return found


def _class_of(mapping: Mapping[Any, Any], config: Any) -> Any:
    """The class for a config. Raises Unsupported."""
    if type(config) not in mapping:
        raise Unsupported(
            f"architecture {config.model_type!r}", why="it has no such class", instead="Choose another model."
        )
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _options(model_class: Any) -> dict[str, Any]:
    """Options of a class that leave out what no hook needs."""
    import inspect

    known = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


def _devices(blueprint: Blueprint, placement: Placement) -> dict[str, Any]:
    """Module path -> device. Raises LimitReached (INSUFFICIENT_MEMORY) where the devices are too small."""
    if placement.device_map == "auto":
        return _spread(blueprint, placement)
    devices: dict[str, Any] = {"": placement.device}
    if placement.embeddings_on_cpu and placement.device != "cpu":
        devices |= dict.fromkeys(embedding_paths(blueprint.model), "cpu")
    return devices


def _spread(blueprint: Blueprint, placement: Placement) -> dict[str, Any]:
    """Blocks over devices, by accelerate."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import CustomDtype, get_balanced_memory

    size = {"nf4": CustomDtype.INT4, "int8": torch.int8}.get(placement.quantization, placement.dtype)
    linear = {f"{n}.weight" for n, m in blueprint.model.named_modules() if type(m) is nn.Linear}
    common = {
        "no_split_module_classes": list(getattr(blueprint.model, "_no_split_modules", None) or ()),
        "dtype": size,
        "special_dtypes": {n: placement.dtype for n, _ in blueprint.model.named_parameters() if n not in linear},
    }
    limits = dict(placement.max_memory) if placement.max_memory else None
    memory = get_balanced_memory(blueprint.model, max_memory=limits, **common)
    devices: dict[str, Any] = dict(infer_auto_device_map(blueprint.model, max_memory=memory, **common))
    places = set(devices.values())
    if "disk" in places or (placement.quantization != "none" and "cpu" in places and places != {"cpu"}):
        raise LimitReached(
            f"{blueprint.name} up to the hook does not fit the devices together. Choose an earlier hook, a smaller "
            "number format or quantization, or allow more in max_memory.",
            reason="INSUFFICIENT_MEMORY",
            facts={"model_name": blueprint.name},
        )
    return devices


def embedding_paths(model: nn.Module) -> list[str]:
    """Paths of the token embedding: one, or several that share it."""
    find: Any = getattr(model, "get_input_embeddings", None)
    embedding = find() if callable(find) else None
    shape = getattr(getattr(embedding, "weight", None), "shape", None)
    named = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return [path for path, module in named if module is embedding or module.weight.shape == shape]


def head_paths(model: nn.Module) -> list[str]:
    """Path of the head that turns hidden states into logits: one, or none."""
    find: Any = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return [path for path, module in model.named_modules() if module is head]


def _embed_on_cpu(model: nn.Module, device: torch.device) -> None:
    """Looks tokens up in the host's memory and moves the vectors, instead of the table at every pass."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    look_up_on_cpu(model, device)


def look_up_on_cpu(model: nn.Module, device: torch.device) -> None:
    """Makes the embeddings of a model take ids from anywhere and give their vectors on `device`."""
    for path in embedding_paths(model):
        embedding: nn.Module = model.get_submodule(path)
        embedding.register_forward_pre_hook(lambda _module, inputs: tuple(ids.to("cpu") for ids in inputs))
        embedding.register_forward_hook(lambda _module, _inputs, output: output.to(device, non_blocking=True))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Says of what goes wrong inside that the model's files are at fault, unless it is memory or a cancel."""
    try:
        yield
    except (MemoryError, MistudioError, Cancelled):
        raise
    except torch.OutOfMemoryError as error:
        raise LimitReached(
            f"The memory of the device does not hold {name} up to the hook. Choose an earlier hook, a smaller number "
            "format or quantization.",
            reason="INSUFFICIENT_MEMORY",
            facts={"model_name": name},
        ) from error
    except Exception as error:
        raise invalid(name, f"its weights do not load ({type(error).__name__}: {str(error)[:200]})") from error


@contextmanager
def quiet() -> Iterator[None]:
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
