"""Secrets that cannot leak by accident.

A `Secret` shows as `***` in repr, str, format and logs, and refuses to be pickled or turned into
JSON. `reveal()` is the only way to the value. Sealed files keep one with mode 0600.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn


class Secret:
    """A string that shows as `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Wraps `value`."""
        self._value = value

    def reveal(self) -> str:
        """The value itself: pass it on at once, never store or format it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled")


def write_sealed(path: Path, value: Secret) -> None:
    """Writes a secret to a file that only its owner can read (mode 0600), durably."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(handle, 0o600)
        os.write(handle, value.reveal().encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_sealed(path: Path) -> Secret | None:
    """The secret in a sealed file; None where there is no such file."""
    try:
        return Secret(path.read_text().strip())
    except FileNotFoundError:
        return None
