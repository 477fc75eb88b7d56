"""Tables of engines for tests: a key that must not leak, deadlines that are short only where a server keeps still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mistudio_explain.engines.settings import EngineSettings, settings_class
from tests.support.chatservers import CANARY

IMPATIENT = {"slow": {"first_byte_seconds": 0.1}, "silent": {"first_byte_seconds": 0.1}, "drip": {"total_seconds": 0.2}}
"""Deadlines for servers that would keep still for the rest of a test."""
PRICES = {"usd_per_million_input": 1.0, "usd_per_million_output": 4.0}


def settings_for(kind: str, url: str, folder: Path, **values: Any) -> EngineSettings:
    """A table of this kind for a server at `url`; providers get a key file in `folder` and prices."""
    common: dict[str, Any] = {
        "name": kind,
        "kind": kind,
        "base_url": url,
        "model": "m",
        "connect_seconds": 10.0,
        "first_byte_seconds": 20.0,
        "total_seconds": 30.0,
        "max_response_bytes": 100_000,
        "attempts": 2,
        "breaker_seconds": 0.2,
    }
    if kind in ("openai", "anthropic", "openai_compatible"):
        key = folder / "key"
        key.write_text(CANARY)
        common["api_key_file"] = str(key)
    if kind in ("openai", "anthropic"):
        common |= PRICES
    return settings_class(kind)(**{**common, **values})
