"""How many tokens a text has for an engine's model, where the model's tokenizer lies on this machine.

Owns reading tokenizer.json; who has none at hand is measured in characters by prompting.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mistudio_explain.engines.base import Engine

Count = Callable[[str], int]
_SLACK = 64
"""Tokens of a chat template."""


def counter_of(engine: Engine) -> Count | None:
    """The count of an engine's own tokenizer, through whatever stands around the engine; None where it has none."""
    own: Any = getattr(getattr(engine, "inner", engine), "counter", None)
    found: Count | None = own() if own is not None else None
    return found


def within(count: Count | None, budget: int) -> Count | None:
    """A count that is exact where it decides: no text has more tokens than bytes, and counting takes milliseconds."""
    if count is None:
        return None
    exact = count

    def counted(text: str) -> int:
        most = len(text.encode())
        return most if most + _SLACK <= budget else exact(text)

    return counted


def file_counter(file: Path) -> Count | None:
    """Counts with a tokenizer.json, special tokens left out; None where it, or the package, cannot be read."""
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _read(file: Path, _written: int) -> Count | None:
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the package raises bare Exceptions; without it, characters are counted
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count
