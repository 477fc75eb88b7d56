"""From a model's name to its files and facts, without its weights and without torch.

Names: a hub id; a folder under the allowed model root; `package:<name>/<folder>` inside an
installed package, whose code is not run. Loading is `load`'s business.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.errors import InvalidInput, NotFound, Unavailable
from mistudio_core.secret import Secret
from mistudio_torch.lm import hub
from mistudio_torch.lm.facts import (
    ModelFacts,
    block_of,
    invalid,
    parse_config,
    parse_header,
    read_header,
    sum_tensors,
)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_PICKLE = (".bin", ".pt", ".pth", ".ckpt")
_INDEX_BYTES = 64 << 20
_SHARDS_INSPECTED = 64
_PACKAGE = re.compile(r"^package:([A-Za-z_][A-Za-z0-9_]*)/([A-Za-z0-9_][A-Za-z0-9_./-]*)$")
_HUB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")

_LONGEST_PART = 200
"""Bytes of one part of a name: what every file system takes."""
Headers = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> (dtype, shape)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Where a model's files are: a folder, or a hub repository at one commit."""

    name: str
    """The name that was asked for."""
    folder: Path | None
    """Local folder; None for a hub model."""
    repo: hub.HubRepo | None
    """Repository; None for a local model."""
    token: Secret | None
    """Token for the hub."""
    cache_dir: Path | None
    """Where hub files are kept; None for the hub's own default."""
    watch: Callable[[], None] | None = None
    """Called often while a file is downloaded; may raise to stop it."""

    @property
    def files(self) -> frozenset[str]:
        """Names of the files at the top of the model."""
        if self.repo is not None:
            return frozenset(self.repo.files)
        return frozenset(p.name for p in (self.folder or Path()).iterdir() if p.is_file())

    def path(self, file: str) -> Path:
        """A file on this machine, downloaded where needed. Raises NotFound, Forbidden, Unavailable."""
        if self.repo is not None:
            return hub.fetch(
                self.name,
                file,
                revision=self.repo.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                offline=self.repo.offline,
                watch=self.watch,
            )
        path = (self.folder or Path()) / file
        if not path.is_file():
            raise not_found(self.name, f"its folder has no {file}")
        return path


def _shown(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def not_found(name: str, why: str) -> NotFound:
    """The error for a name behind which there is no model."""
    return NotFound(
        f"No model {name}: {why}. Use a hub id, a folder under the model root, or package:<name>/<folder>.",
        reason="MODEL_NOT_FOUND",
        facts={"model_name": name, "why": why},
    )


def resolve(
    name: str,
    *,
    token: Secret | None = None,
    model_root: Path | None = None,
    cache_dir: Path | None = None,
    watch: Callable[[], None] | None = None,
    cached_only: bool = False,
) -> ModelSource:
    """Finds a model's files; only hub metadata is fetched, with `cached_only` not even that.

    Raises NotFound, Forbidden, Unavailable.
    """
    if any(len(part.encode("utf-8", "replace")) > _LONGEST_PART for part in name.split("/")):
        raise not_found(_shown(name), f"a part of the name is longer than {_LONGEST_PART} bytes")
    folder = _package_folder(name) if name.startswith("package:") else _root_folder(name, model_root)
    repository = None
    if folder is None:
        if not _HUB_ID.match(name) or ".." in name:
            raise not_found(name, "it is no hub id, and no folder of that name lies under the model root")
        offline = cached_only or hub.is_offline()
        repository = hub.cached_repo(name, cache_dir) if offline else hub.repo(name, token)
    return ModelSource(name=name, folder=folder, repo=repository, token=token, cache_dir=cache_dir, watch=watch)


def _package_folder(name: str) -> Path:
    """The folder of a `package:` name; finding the package runs none of its code."""
    match = _PACKAGE.match(name)
    if match is None or ".." in name:
        raise not_found(name, "a package model is written package:<name>/<folder>")
    spec = importlib.util.find_spec(match.group(1))
    if spec is None or not spec.submodule_search_locations:
        raise not_found(name, f"the package {match.group(1)} is not installed")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / match.group(2)).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise not_found(name, f"the package has no folder {match.group(2)}")
    return folder


def _root_folder(name: str, model_root: Path | None) -> Path | None:
    """A folder under the allowed root; None where the name is none."""
    if model_root is None or "\x00" in name:
        return None
    root = model_root.resolve()
    folder = (root / name).resolve()
    return folder if folder != root and folder.is_relative_to(root) and folder.is_dir() else None


def inspect_model(name: str, *, token: Secret | None = None, model_root: Path | None = None) -> ModelFacts:
    """Facts about a model from its config and weight headers.

    Raises NotFound (MODEL_NOT_FOUND), Forbidden (MODEL_GATED), InvalidInput (MODEL_INVALID,
    MODEL_UNSAFE_FORMAT), Unsupported, Unavailable (HUB_UNAVAILABLE).
    """
    return facts_of(resolve(name, token=token, model_root=model_root))


def facts_of(source: ModelSource) -> ModelFacts:
    """See inspect_model."""
    return described(source)[0]


def described(source: ModelSource) -> tuple[ModelFacts, dict[str, tuple[int, ...]]]:
    """Facts, and the shape of every weight by name; () where its header was not read. Raises as inspect_model does."""
    files = source.files
    if "config.json" not in files:
        raise invalid(source.name, "it has no config.json")
    raw = source.path("config.json").read_bytes()
    _, shape = parse_config(source.name, raw)
    shards = weight_files(source)
    tensors, revision = _local_tensors(source, shards, raw) if source.repo is None else _hub_tensors(source, shards)
    totals = sum_tensors(tensors)
    shapes: dict[str, tuple[int, ...]] = {name: () for names in shards.values() for name in names or ()}
    facts = ModelFacts(
        model_name=source.name,
        architecture=shape.architecture,
        total_layers=shape.total_layers,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
        requires_token=source.repo is not None and source.repo.gated,
        weight_bytes=totals.weight_bytes,
        parameters=totals.parameters,
        block_parameters=totals.block_parameters,
        other_parameters=totals.other_parameters,
        dtype=totals.dtype,
        revision=revision,
        linear_parameters=totals.linear_parameters,
        embedding_parameters=totals.embedding_parameters,
        head_parameters=totals.head_parameters,
        feed_forward_size=shape.feed_forward_size,
        attention_heads=shape.attention_heads,
        key_value_heads=shape.key_value_heads,
        head_size=shape.head_size,
    )
    return facts, shapes | {name: shape for name, (_, shape) in tensors.items()}


def weight_files(source: ModelSource, layer: int | None = None) -> dict[str, list[str] | None]:
    """Safetensors files -> the tensor names wanted of each (None: all), up to block `layer` where given.

    Raises InvalidInput (MODEL_UNSAFE_FORMAT) where there are only pickles.
    """
    files = source.files
    if SINGLE in files:
        return {SINGLE: None}
    if INDEX not in files:
        raise _unsafe(source.name, files)
    wanted: dict[str, list[str] | None] = {}
    for tensor, file in sorted(read_index(source).items()):
        block = block_of(tensor)
        if layer is None or block is None or block <= layer:
            names = wanted.setdefault(file, [])
            if names is not None:
                names.append(tensor)
    return wanted


def read_index(source: ModelSource) -> dict[str, str]:
    """Tensor -> shard. Raises InvalidInput (MODEL_INVALID) for an index that names other places."""
    path = source.path(INDEX)
    try:
        if path.stat().st_size > _INDEX_BYTES:
            raise invalid(source.name, f"{INDEX} is too large")
        weight_map = json.loads(path.read_bytes())["weight_map"]
        known = source.files
        if not weight_map or any(f not in known or not f.endswith(".safetensors") for f in weight_map.values()):
            raise invalid(source.name, f"{INDEX} names files that the model does not have")
        return {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise invalid(source.name, f"{INDEX} cannot be read") from error


def _unsafe(name: str, files: frozenset[str]) -> InvalidInput:
    if any(f.endswith(_PICKLE) for f in files):
        return InvalidInput(
            f"Model {name} has no safetensors weights, only pickle files, which can run code and are never "
            "opened here. Use a revision or sibling with safetensors, or convert it with `mistudio models convert`.",
            reason="MODEL_UNSAFE_FORMAT",
            facts={"model_name": name},
        )
    return invalid(name, "it has no model.safetensors")


def _local_tensors(source: ModelSource, shards: dict[str, list[str] | None], config: bytes) -> tuple[Headers, str]:
    """Everything in a folder's headers, and the digest of config and headers."""
    digest, tensors = hashlib.sha256(config), {}
    try:
        for file in sorted(shards):
            header = read_header(source.path(file))
            digest.update(header)
            tensors.update(parse_header(header))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid(source.name, f"the header of {file} cannot be read") from error
    return tensors, digest.hexdigest()


def _hub_tensors(source: ModelSource, shards: dict[str, list[str] | None]) -> tuple[Headers, str]:
    """Everything in the headers, from range requests; nothing where there are too many shards to ask for."""
    if source.repo is None:
        raise ValueError("not a hub model")
    tensors = {}
    if len(shards) <= _SHARDS_INSPECTED:
        for file in sorted(shards):
            if not source.repo.offline:
                tensors.update(hub.tensors(source.repo, file, source.token))
                continue
            with suppress(Unavailable, ValueError, KeyError, TypeError):  # only what the cache has
                tensors.update(parse_header(read_header(source.path(file))))
    return tensors, source.repo.revision


def check_layer(facts: ModelFacts, layer: int) -> None:
    """Raises InvalidInput (LAYER_OUT_OF_RANGE) for a block that the model does not have."""
    if not 0 <= layer < facts.total_layers:
        raise InvalidInput.field(
            "layer_number",
            layer,
            f"0..{facts.total_layers - 1}, as {facts.model_name} has {facts.total_layers} blocks",
            "Choose a block of the model.",
            reason="LAYER_OUT_OF_RANGE",
        )
