"""Runs `python -m mistudio_explain.engines.vllm_environment` beside the command line, which imports no service.

One JSON line comes back for each step, and a last one with the answer or the error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistudio_core.errors import Failed, InvalidInput, LimitReached, MistudioError, NotReady, Unsupported
from mistudio_core.home import Home

_KINDS: dict[str, type[MistudioError]] = {k.__name__: k for k in (InvalidInput, LimitReached, NotReady, Failed)}


def install(environment: str, home: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The environment that there is now; `say` hears each step. Raises the error that the process reports."""
    place = Home.at(home)
    command = [sys.executable, "-m", "mistudio_explain.engines.vllm_environment", environment, str(place.root)]
    answer: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    rest: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            try:
                value = json.loads(line)
            except ValueError:
                rest.append(line.strip())
                continue
            if "step" in value:
                say(value["step"])
            answer, error = value.get("answer", answer), value.get("error", error)
    if answer is not None:
        return answer
    if error is not None:
        raise _raised(error)
    why = rest[-1][:300] if rest else f"exit code {process.returncode}"
    raise Failed(f"The install ended without an answer ({why}). Run it again.")


def _raised(error: dict[str, Any]) -> MistudioError:
    facts = dict(error["facts"])
    if error["kind"] == "Unsupported" and {"what", "why", "instead"} <= facts.keys():
        return Unsupported(facts["what"], why=facts["why"], instead=facts["instead"])
    return _KINDS.get(error["kind"], Failed)(error["message"], reason=error["reason"], facts=facts)
