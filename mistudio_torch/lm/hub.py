"""The Hugging Face Hub, or one that HF_ENDPOINT names: metadata and single files, errors translated.

huggingface_hub is imported inside functions. Tokens are passed, never taken from the environment
or the home directory. Nothing here reads what is inside of a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.errors import Cancelled, Forbidden, MistudioError, NotFound, Unavailable
from mistudio_core.secret import Secret

_TIMEOUT_S = 20.0
_REFUSED = (401, 403)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepo:
    """A model repository at one commit."""

    name: str
    """owner/name."""
    revision: str
    """Commit."""
    gated: bool
    """Whether its files need a token."""
    files: tuple[str, ...]
    """Paths in the repository."""
    offline: bool = False
    """Whether only the local cache may be used."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def repo(name: str, token: Secret | None, revision: str = "") -> HubRepo:
    """Metadata of a repository, at a revision or as it is now. Raises NotFound, Forbidden, Unavailable."""
    from huggingface_hub import HfApi

    with hub_errors(name):
        info = HfApi(endpoint=_endpoint()).model_info(
            name, revision=revision or None, token=_token(token), timeout=_TIMEOUT_S
        )
    files = tuple(sorted(s.rfilename for s in info.siblings or ()))
    return HubRepo(name=name, revision=str(info.sha), gated=bool(info.gated or info.private), files=files)


def cached_repo(name: str, cache_dir: Path | None) -> HubRepo:
    """A repository as the local cache has it, for HF_HUB_OFFLINE. Raises Unavailable where it has none."""
    from huggingface_hub import constants

    root = (cache_dir or Path(constants.HF_HUB_CACHE)) / ("models--" + name.replace("/", "--"))
    main = root / "refs" / "main"
    snapshots = sorted((p for p in root.glob("snapshots/*/config.json")), key=lambda p: p.stat().st_mtime_ns)
    revision = main.read_text().strip() if main.is_file() else ""
    if not (root / "snapshots" / revision / "config.json").is_file():
        if not snapshots:
            raise _unreachable(name, "HF_HUB_OFFLINE is set and the model is not in the local cache")
        revision = snapshots[-1].parent.name
    folder = root / "snapshots" / revision
    files = {p.name for p in folder.iterdir()}
    for index in folder.glob("*.safetensors.index.json"):
        with suppress(ValueError, TypeError, AttributeError, KeyError):
            files.update(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    return HubRepo(name=name, revision=revision, gated=False, files=tuple(sorted(files)), offline=True)


def fetch(
    name: str,
    file: str,
    *,
    revision: str,
    token: Secret | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    watch: Callable[[], None] | None = None,
) -> Path:
    """Downloads one file, or finds it in the cache; `watch` is called with each chunk and may raise.

    Raises NotFound, Forbidden, Unavailable.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(name):
        found = hf_hub_download(
            name,
            file,
            revision=revision,
            token=_token(token),
            cache_dir=cache_dir,
            endpoint=_endpoint(),
            local_files_only=offline,
            tqdm_class=_silent_bar(watch),
        )
    return Path(str(found))


def _silent_bar(watch: Callable[[], None] | None) -> Any:
    """A progress bar class that shows nothing and calls `watch`."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # exported at run time

    class Bar(tqdm):
        """What huggingface_hub reports chunks to."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            """Called with each chunk."""
            if watch is not None:
                watch()
            return None

    return Bar


def tensors(repository: HubRepo, file: str, token: Secret | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Reads name -> (dtype, shape) of a safetensors file, from its header alone (a range request)."""
    from huggingface_hub import HfApi

    with hub_errors(repository.name):
        metadata = HfApi(endpoint=_endpoint()).parse_safetensors_file_metadata(
            repository.name, file, revision=repository.revision, token=_token(token), timeout=_TIMEOUT_S
        )
    return {name: (str(t.dtype), tuple(t.shape)) for name, t in metadata.tensors.items()}


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns what huggingface_hub and its HTTP client raise into miStudio's errors."""
    try:
        yield
    except (MistudioError, Cancelled):
        raise
    except Exception as error:
        translated = _translated(name, error)
        if translated is None:
            raise
        raise translated from error


def _translated(name: str, error: Exception) -> MistudioError | None:
    """What a caller should see; None for what is no matter of the hub."""
    from huggingface_hub import errors as hub

    facts = {"model_name": name}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError) or (
        status in _REFUSED and not isinstance(error, hub.RepositoryNotFoundError)
    ):
        return Forbidden(
            f"Model {name} is gated: its files need a token with access. Ask for access on the hub, "
            "then pass huggingface_token.",
            reason="MODEL_GATED",
            facts=facts,
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError | hub.RevisionNotFoundError):
        return NotFound(
            f"No model {name} on the hub. Check the spelling; for a private model pass huggingface_token.",
            reason="MODEL_NOT_FOUND",
            facts=facts,
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _unreachable(name, "the file is not in the local cache and the hub was not reached")
    if isinstance(error, hub.EntryNotFoundError):
        return NotFound(f"Model {name} lacks a file it needs.", reason="MODEL_NOT_FOUND", facts=facts)
    if isinstance(error, OSError | hub.HfHubHTTPError) or type(error).__module__.startswith("http"):
        return _unreachable(name, f"{type(error).__name__}{f' {status}' if status else ''}")
    return None


def _unreachable(name: str, why: str) -> Unavailable:
    return Unavailable(
        f"The model hub could not be reached for {name} ({why}). Try again, check HF_ENDPOINT and "
        "HF_HUB_OFFLINE, or use a local folder or a package: model.",
        reason="HUB_UNAVAILABLE",
        facts={"model_name": name, "why": why},
    )


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now, not as it was at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _token(token: Secret | None) -> str | bool:
    """The token for a request; False forbids the one stored in the home directory."""
    return token.reveal() if token else False
