"""`python -m mistudio_find.exports`: makes one export in a process of its own, as aside.py runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_find.aside import opened, serve
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make


def run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the file. Raises what `make` does."""
    codes = opened(told["codes"]) if "codes" in told else None
    make(Analysis(opened(told["features"]), codes), {told["format"]: Path(told["out"])})
    return {}


if __name__ == "__main__":
    serve(run)
