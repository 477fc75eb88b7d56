"""Where an SAE of another origin is: an artifact of this installation, a hub repository, a local folder.

Parses names, pins hub revisions and finds files; reads none of them. Imports no torch, so that the service
refuses what cannot be found before a job exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mistudio_core.errors import InvalidInput, NotFound
from mistudio_core.secret import Secret
from mistudio_torch.lm import hub

_ARTIFACT = re.compile(r"^/data/models/[a-z][a-z0-9]*_\d{8}_\d{6}_[0-9a-f]{8,32}/([a-z0-9_]+/)?sae$")
_HUB = re.compile(
    r"^hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[A-Za-z0-9][\w.-]{0,99}))?"
    r"(?P<folder>(/[A-Za-z0-9_][\w.=+-]{0,199})*)/?$",
    re.ASCII,
)
_READ = (".safetensors", ".npz", ".json")
"""Endings of files that are fetched from a hub: none can run code."""
_MANY_FILES = 8
_ALLOWED = (
    "a folder or file under the model root, the name of an imported SAE, hf:<owner>/<name>[@revision][/folder], "
    "or the URI of an sae artifact"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSae:
    """A folder of a hub repository."""

    repo: str
    """owner/name."""
    revision: str
    """Branch, tag or commit; empty: what the hub shows."""
    folder: str
    """Path in the repository, without slashes at its ends; empty for the top."""

    @property
    def uri(self) -> str:
        """The name that `parse_hub` gives this record for."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}" + (f"/{self.folder}" if self.folder else "")


def is_artifact(uri: str) -> bool:
    """Whether a name is that of an artifact of this installation."""
    return _ARTIFACT.match(uri) is not None


def is_hub(uri: str) -> bool:
    """Whether a name is that of a hub repository."""
    return uri.startswith("hf:")


def parse_hub(uri: str) -> HubSae:
    """A hub name in its parts; a file stands for the folder it is in. Raises InvalidInput."""
    match = _HUB.match(uri)
    if match is None or ".." in uri:
        raise InvalidInput.field("sae_uri", uri, _ALLOWED, "For example hf:google/gemma-scope-2b-pt-res/layer_20.")
    folder = PurePosixPath(match["folder"].strip("/"))
    if folder.suffix in _READ:
        folder = folder.parent
    name = "" if str(folder) == "." else str(folder)
    return HubSae(repo=match["repo"], revision=match["revision"] or "", folder=name)


def pinned(uri: str, token: Secret | None) -> str:
    """The name with the commit that its revision stands for now, after a look at the folder's files.

    Asks the hub. Raises InvalidInput, NotFound, Forbidden, Unavailable.
    """
    wanted, found, files = _found(uri, token)
    if found.gated:  # its smallest file shows whether the token opens it
        small = next((name for name in files if name.endswith(".json")), files[0])
        hub.fetch(wanted.repo, small, revision=found.revision, token=token, offline=found.offline)
    return HubSae(repo=wanted.repo, revision=found.revision, folder=wanted.folder).uri


def fetched(uri: str, token: Secret | None, watch: Callable[[], None]) -> Path:
    """The local folder of a hub name, its files downloaded at their commit; `watch` may raise.

    Raises InvalidInput, NotFound, Forbidden, Unavailable.
    """
    wanted, found, files = _found(uri, token)
    paths = [
        hub.fetch(wanted.repo, name, revision=found.revision, token=token, offline=found.offline, watch=watch)
        for name in files
    ]
    return paths[0].parent


def _found(uri: str, token: Secret | None) -> tuple[HubSae, hub.HubRepo, list[str]]:
    """What a hub name asks for, the repository as the hub or its cache has it, and the SAE's files in it."""
    wanted = parse_hub(uri)
    repo = hub.cached_repo(wanted.repo, None) if hub.is_offline() else hub.repo(wanted.repo, token, wanted.revision)
    return wanted, repo, _files(repo, wanted.folder)


def _files(repo: hub.HubRepo, folder: str) -> list[str]:
    """The files of a folder that may be an SAE's. Raises InvalidInput where there are none, or only pickles."""
    prefix = f"{folder}/" if folder else ""
    beside = [name for name in repo.files if name.startswith(prefix)]
    here = [name for name in beside if "/" not in name[len(prefix) :]]
    found = [name for name in here if name.endswith(_READ)]
    if any(not name.endswith(".json") for name in found):
        return found
    if any(name.endswith((".pt", ".pth", ".bin", ".ckpt")) for name in here):
        raise InvalidInput(
            f"The SAE {repo.name}/{folder} has only pickle files, which can run code and are never fetched. "
            "Download it and import it with `mistudio sae import`, which reads tensors in an isolated process.",
            reason="MODEL_UNSAFE_FORMAT",
            facts={"sae_uri": f"{repo.name}/{folder}"},
        )
    folders = sorted({name.rpartition("/")[0] for name in beside if name.endswith((".safetensors", ".npz"))})
    shown = ", ".join(folders[:_MANY_FILES]) or "none"
    raise InvalidInput.field(
        "sae_uri",
        f"hf:{repo.name}/{folder}",
        f"a folder with an SAE's files; folders of this repository that have weights: {shown}"
        + (f" and {len(folders) - _MANY_FILES} more" if len(folders) > _MANY_FILES else ""),
    )


def local(uri: str, model_root: Path | None, sae_root: Path | None) -> Path:
    """A folder or file under the model root, else under the folder of imported SAEs. Raises NotFound."""
    for root in (model_root, sae_root):
        if root is None or "\x00" in uri:
            continue
        path, top = (root / uri).resolve(), root.resolve()
        if path != top and path.is_relative_to(top) and path.exists():
            return path
    raise NotFound(
        f"There is no SAE {uri}. Allowed is {_ALLOWED}. Put the files under the model root, or import them: "
        "`mistudio sae import FOLDER --name NAME`.",
        reason="INVALID_FIELD",
        facts={"field": "sae_uri", "value": uri},
    )
