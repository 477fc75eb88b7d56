"""The folder of an SAE: which files it has, its configuration with typed values, its tensors by suffix.

Refuses links that lead out of the folder, except the ones with which the hub's cache lays out its
snapshots. Knows no format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from mistudio_core.errors import InvalidInput, NotFound
from mistudio_torch.formats import pt
from mistudio_torch.formats.tensors import StoredTensors, broken, open_npz, open_safetensors

_MAX_CONFIG_BYTES = 1 << 20
_READERS: dict[str, Callable[[Path], StoredTensors]] = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".pt": pt.open_pt,
}


class SaeFolder:
    """Files by name."""

    def __init__(self, names: Collection[str], path: Callable[[str], Path], place: Path | None = None) -> None:
        """`path(name)` opens one of `names`; `place` is the folder, whose own name may say which layer it is."""
        self.names, self._path, self.place = frozenset(names), path, place

    @staticmethod
    def at(path: Path) -> SaeFolder:
        """The files of a folder; a file stands for the folder it is in. Raises NotFound."""
        folder = path if path.is_dir() else path.parent
        if not path.exists():
            raise NotFound(f"There is nothing at {path}. Name a folder with an SAE.", reason="INVALID_FIELD")
        root = folder.resolve()
        return SaeFolder({p.name for p in root.iterdir()}, lambda name: _inside(root, name), root)

    def path(self, name: str) -> Path:
        """A file that is there. Raises InvalidInput for a link that leads out."""
        return self._path(name)

    def config(self, name: str) -> Config:
        """A JSON object. Raises InvalidInput."""
        return read_config(self.path(name))

    def config_beside(self, name: str) -> Config:
        """The JSON object of a file beside the folder, which only describes; empty where it is none."""
        path = self.place.parent / name if self.place is not None else Path(name)
        try:
            return (
                read_config(path)
                if self.place is not None and path.is_file() and not path.is_symlink()
                else Config(name, {})
            )
        except (InvalidInput, OSError):
            return Config(name, {})

    def tensors(self, name: str) -> StoredTensors:
        """The tensors of a file, by its suffix."""
        return _READERS[Path(name).suffix](self.path(name))


def _inside(root: Path, name: str) -> Path:
    path = root / name
    target = path.resolve()
    blobs = target.parent  # of the hub's cache: <repository>/blobs beside <repository>/snapshots
    cached = blobs.name == "blobs" and root.is_relative_to(blobs.parent / "snapshots")
    if not target.is_relative_to(root) and not cached:
        raise broken(name, "it is a link that leads out of its folder")
    if not target.is_file():
        raise broken(name, "it is no file")
    return path if not cached else target


def read_config(path: Path) -> Config:
    """A JSON object of at most 1 MiB. Raises InvalidInput."""
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise broken(path.name, f"a configuration has at most {_MAX_CONFIG_BYTES:,} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise broken(path.name, "it is not JSON") from error
    if not isinstance(found, dict):
        raise broken(path.name, "it is no JSON object")
    return Config(path.name, found)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class Config:
    """Values by key, with their types and ranges; a lie is InvalidInput that names file, key and value."""

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        """`file` for messages."""
        self.file, self.values = file, values

    def has(self, key: str) -> bool:
        """Whether there is a value that is not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 24) -> int:
        """A whole number in a range; `default` where it is missing, or InvalidInput where there is none."""
        value = self._value(key, default)
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, value, f"a whole number of {low:,} to {high:,}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def number(self, key: str, *, positive: bool = True) -> float:
        """A finite number above zero."""
        value = self._value(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            self.refuse(key, value, "a finite number above 0")
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """Text."""
        value = self._value(key, default)
        if not isinstance(value, str) or len(value) > 1000:
            self.refuse(key, value, "text of at most 1,000 characters")
        return value

    def section(self, key: str) -> Config:
        """An object inside; empty where it is missing."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            self.refuse(key, value, "an object")
        return Config(f"{self.file}: {key}", value)

    def refuse(self, key: str, value: object, allowed: str) -> NoReturn:
        """Raises InvalidInput about a key."""
        shown = "missing" if value is None else value
        raise InvalidInput.field(f"{self.file}: {key}", shown, allowed, "The file does not say what it must.")

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value
