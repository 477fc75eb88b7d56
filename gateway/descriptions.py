"""The sentences of the .proto files, which descriptors lose at run time.

`descriptions.json` is written by `tools/generate_descriptions.py`; a contract test compares. An RPC that is
not in it is served all the same, without its sentence.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "descriptions.json"


@cache
def _all() -> dict[str, str]:
    found: dict[str, str] = json.loads(FILE.read_text())
    return found


def description(full_name: str) -> str:
    """The comment on a service, RPC, message, field, enum or value; empty for none."""
    return _all().get(full_name, "")
