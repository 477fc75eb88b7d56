"""An SAE of elsewhere: found, read in our form, and checked against the hook that it is put to.

Owns files and facts of the SAE alone; its codes are made in imported_codes.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.context import JobContext
from mistudio_find import imported_source
from mistudio_find.config import FindConfig

if TYPE_CHECKING:
    from mistudio_torch.formats import SaeMetadata
    from mistudio_torch.sae import Sae

LOADED, TOKENISED, ENCODED = 0.05, 0.1, 0.5
"""Shares of the whole job that are done when the SAE and the model are loaded, the corpus tokenised, the codes made."""
ORIGIN_FILE = "origin.json"
"""In the `sae` artifact: what it was made of, the fields of mistudio.find.v1.SaeOrigin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """An SAE that was read."""

    sae: Sae
    """In our form, on the CPU."""
    metadata: SaeMetadata
    """Where its files say that it belongs."""
    origin: Mapping[str, Any]
    """What it was made of."""


def load(config: FindConfig, ctx: JobContext) -> Imported:
    """The SAE as an earlier attempt kept it, else from where it is."""
    kept = ctx.committed("sae")
    if kept is not None:
        ctx.log("An earlier attempt was stopped before its codes were whole: the harvest goes on where they end.")
        for file in kept.record.files:
            kept.path(file.name)
        found = _read(kept.path(ORIGIN_FILE).parent, "")
        return replace(found, origin=json.loads(kept.read_bytes(ORIGIN_FILE)))
    return _read(_folder(config, ctx), config.sae_uri)


def _folder(config: FindConfig, ctx: JobContext) -> Path:
    """Where its files are on this machine, verified or downloaded."""
    uri = config.sae_uri
    if imported_source.is_artifact(uri):
        reader = ctx.input("origin")
        return {reader.path(file.name).parent for file in reader.record.files}.pop()
    if imported_source.is_hub(uri):
        return imported_source.fetched(uri, ctx.secret("huggingface_token"), ctx.check_cancelled)
    return imported_source.local(uri, config.model_root, config.sae_root)


def _read(path: Path, uri: str) -> Imported:
    """The SAE in a folder; refused where it does not compute what its origin does."""
    from mistudio_torch.formats import open_folder, read_sae

    found = read_sae(path)
    folder, form = open_folder(path, found.format)
    weights = next(name for name in form.files if not name.endswith(".json"))
    with folder.path(weights).open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    origin = {"uri": uri, "format": found.format, "kind": found.kind, "sha256": digest}
    return Imported(sae=found.sae.for_inference(), metadata=found.metadata, origin=origin)


def hook_names(config: FindConfig, metadata: SaeMetadata) -> tuple[str, str]:
    """(what it reads, what it writes or "" where that is the same or not known). Raises InvalidInput."""
    name = config.hook_name or metadata.hook_name
    if not name:
        raise InvalidInput.field(
            "hook_name",
            "",
            "the hook that the SAE reads, for example blocks.3.hook_resid_post: its files name none",
            f"All are listed by `mistudio models hooks {config.model_name}`.",
        )
    return name, metadata.hook_name_out if metadata.is_transcoder else ""


def check_width(sae: Sae, model_name: str, widths: Sequence[tuple[str, int]]) -> None:
    """Whether the SAE fits its hooks: (name, width) of what it reads, and of what it writes. Raises InvalidInput."""
    for (hook, width), (what, own) in zip(
        widths, (("reads", sae.shape.d_in), ("writes", sae.shape.d_out)), strict=False
    ):
        if width != own:
            raise InvalidInput(
                f"The SAE {what} vectors of {own} values, and hook {hook} of {model_name} has {width}. It belongs to "
                "another model or hook: set model_name and hook_name to the ones that it was trained on.",
                facts={"hook_name": hook, "model_name": model_name, "sae_width": own, "hook_width": width},
            )
