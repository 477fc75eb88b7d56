"""Runs `python -m mistudio_torch.lm.pickles` beside the command line, which itself never imports torch.

The job goes in over stdin, so that a token stands in no argument and no environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistudio_core.errors import Failed, InvalidInput
from mistudio_core.home import Home
from mistudio_core.secret import Secret


def run_conversion(
    source: str,
    *,
    name: str,
    timeout: float,
    home: Path | None,
    token: Secret | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What was made: model_name, folder, files, tensors, weight_bytes. Raises the error that the process reports."""
    root = Home.at(home).models
    job: dict[str, Any] = {"source": source, "name": name, "timeout_s": timeout, "model_root": str(root)}
    if token:
        job["token"] = token.reveal()
    with subprocess.Popen(
        [sys.executable, "-m", "mistudio_torch.lm.pickles"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _tell(process, job)
        found: dict[str, Any] = {}
        for line in process.stdout or ():
            found = json.loads(line)
            if "message" in found:
                say(found["message"])
        trouble = (process.stderr.read() if process.stderr else "").strip().splitlines()
    if "converted" in found:
        done: dict[str, Any] = found["converted"]
        return done
    if "error" in found:
        error = found["error"]
        raise InvalidInput(error["message"], reason=error["reason"], facts=error["facts"])
    why = trouble[-1][:300] if trouble else f"exit code {process.returncode}"
    raise Failed(f"The conversion ended without an answer ({why}). Install the extra `train`, or try again.")


def _tell(process: subprocess.Popen[str], job: dict[str, Any]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(job))
        process.stdin.close()
