"""Folders as one stream: a tar file whose bytes depend on its members alone."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

_MODE = 0o644


class Tar:
    """A tar file (POSIX pax) being written, a member at a time; no times, no owners."""

    def __init__(self, path: Path) -> None:
        """Opens `path` for writing."""
        self._archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Tar:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the file."""
        self._archive.close()

    def add(self, name: str, data: bytes) -> None:
        """A small member."""
        self._archive.addfile(self._info(name, len(data)), io.BytesIO(data))

    def move(self, name: str, source: Path) -> None:
        """A member from a file, which is removed."""
        with source.open("rb") as handle:
            self._archive.addfile(self._info(name, source.stat().st_size), handle)
        source.unlink()

    def _info(self, name: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, _MODE
        return info
