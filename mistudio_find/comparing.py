"""`python -m mistudio_find.comparing`: makes one comparison in a process of its own, as aside.py runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mistudio_core.artifacts.files import disk_errors
from mistudio_find.aside import opened, serve
from mistudio_find.compare import Side, Wanted, compare
from mistudio_find.comparison_rows import ROWS_FILE

SUMMARY_FILE = "comparison.json"
"""The summary in the artifact of a comparison."""


def run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the files in the folder `out`; the summary."""
    from mistudio_torch.compiled import threads

    parts = threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    out = Path(told["out"])
    wanted = Wanted(method=told["method"], min_similarity=told["min_similarity"])
    with disk_errors(out, "the comparison"):
        summary = asdict(compare(_side(told["one"]), _side(told["two"]), wanted, out / ROWS_FILE, parts))
        (out / SUMMARY_FILE).write_text(json.dumps(summary, sort_keys=True))
    return {"summary": summary}


def _side(told: Mapping[str, Any]) -> Side:
    return Side(
        job_id=told["job_id"],
        features=opened(told["features"]),
        sae=opened(told["sae"]) if "sae" in told else None,
        codes=opened(told["codes"]) if "codes" in told else None,
    )


if __name__ == "__main__":
    serve(run)
