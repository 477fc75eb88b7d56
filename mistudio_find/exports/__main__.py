"""`python -m mistudio_find.exports`: makes one export in a process of its own, at low priority.

The job comes as one JSON line over standard input, which the caller holds open: when it closes, this process
ends, however its caller ended. One JSON line answers: {"done": true} or {"error": {...}}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore
from mistudio_core.errors import MistudioError
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make

_NICE = 10


def _opened(reference: Mapping[str, str]) -> ArtifactReader:
    record = ArtifactRecord.parse(reference["manifest"].encode(), reference["folder"])
    return ArtifactStore(Path(reference["root"])).open(record, reference["sha256"])


def run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the file; what to answer."""
    try:
        codes = _opened(told["codes"]) if "codes" in told else None
        make(Analysis(_opened(told["features"]), codes), {told["format"]: Path(told["out"])})
    except MistudioError as error:
        kind = type(error).__name__
        return {"error": {"kind": kind, "message": error.message, "reason": error.reason, "facts": error.facts}}
    return {"done": True}


def _main() -> None:
    told = json.loads(sys.stdin.buffer.readline())

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.nice(_NICE)
    answer = run(told)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the watching thread holds standard input: an orderly exit would wait for it


if __name__ == "__main__":
    _main()
