"""How this project compiles loops for the CPU with numba: one way, kept on disk where that can be.

Owns the options and the number of threads, not what is compiled. Every compiled sum is made by one
thread in a fixed order, so results never depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import njit

_FAST = {"contract", "arcp", "nsz", "reassoc"}


def compiled(function: Callable[..., Any], *, parallel: bool = True) -> Callable[..., Any]:
    """Compiles on first use; keeps the machine code on disk where a folder for it can be written."""
    options: dict[str, Any] = {"parallel": parallel, "fastmath": _FAST}
    try:
        made: Callable[..., Any] = njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache, for example on a read-only file system
        made = njit(**options)(function)
    return made


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """For small functions that compiled loops call."""
    made: Callable[..., Any] = njit(inline="always", fastmath=_FAST)(function)
    return made


def threads(parts: int) -> int:
    """Lets numba use `parts` threads, or as many as there are; returns how many."""
    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # it is set on import
    used = max(1, min(parts, most))
    numba.set_num_threads(used)
    return used
