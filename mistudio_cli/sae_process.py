"""Runs `python -m mistudio_torch.formats` beside the command line, which itself never imports torch.

The job goes in over stdin; one JSON line comes back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mistudio_core.errors import Conflict, Failed, InvalidInput, LimitReached, MistudioError, NotFound

_KINDS: dict[str, type[MistudioError]] = {
    kind.__name__: kind for kind in (InvalidInput, NotFound, Conflict, LimitReached, Failed)
}


def run_formats(job: Mapping[str, object]) -> dict[str, Any]:
    """The answer to one job. Raises the error that the process reports."""
    done = subprocess.run(
        [sys.executable, "-m", "mistudio_torch.formats"],
        input=json.dumps(job, default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if "answer" in found:
        answer: dict[str, Any] = found["answer"]
        return answer
    if "error" in found:
        error = found["error"]
        raise _KINDS.get(error["kind"], InvalidInput)(error["message"], reason=error["reason"], facts=error["facts"])
    trouble = done.stderr.strip().splitlines()
    why = trouble[-1][:300] if trouble else f"exit code {done.returncode}"
    raise Failed(f"The SAE's process ended without an answer ({why}). Install the extra `train`, or try again.")
