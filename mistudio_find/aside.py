"""Work in a process of its own, at low priority: what would hold up the control process, or needs much memory.

The caller's side is `run_aside`, the process's is `serve`. The work comes as one JSON line over standard input,
which the caller holds open: when it closes, the process ends, however its caller ended. One JSON line answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore
from mistudio_core.errors import Corrupt, DiskFull, Failed, InvalidInput, MistudioError, NotFound, Unsupported

log = logging.getLogger(__name__)
_KINDS: dict[str, type[MistudioError]] = {
    kind.__name__: kind for kind in (Corrupt, DiskFull, Failed, InvalidInput, NotFound)
}
_NICE = 10


def reference(store: ArtifactStore, record: ArtifactRecord) -> dict[str, str]:
    """An artifact as the process is told of it."""
    return {
        "root": str(store.root),
        "folder": record.folder,
        "manifest": record.manifest().decode(),
        "sha256": record.sha256,
    }


def opened(told: Mapping[str, str]) -> ArtifactReader:
    """The artifact of a reference. Raises Corrupt."""
    record = ArtifactRecord.parse(told["manifest"].encode(), told["folder"])
    return ArtifactStore(Path(told["root"])).open(record, told["sha256"])


async def run_aside(module: str, what: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `python -m module` from start to end; what it answered. `what` is named in errors, for example "the export".

    Raises what the process reports; Failed where it ends before it is done.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("all three are pipes")
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        said, trouble = await asyncio.gather(process.stdout.read(), process.stderr.read())
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _answer(what, code, said, trouble)


def _answer(what: str, code: int, said: bytes, trouble: bytes) -> dict[str, Any]:
    lines = said.decode(errors="replace").strip().splitlines()
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if code == 0 and answer.get("done"):
        return answer
    if "error" in answer:
        error = answer["error"]
        if error["kind"] == Unsupported.__name__:
            facts = error["facts"]
            raise Unsupported(facts["what"], why=facts["why"], instead=facts["instead"])
        raise _KINDS.get(error["kind"], Failed)(error["message"], reason=error["reason"], facts=error["facts"])
    words = trouble.decode(errors="replace").strip().splitlines()
    log.warning("the process of %s ended with code %d: %s", what, code, "\n".join(words[-20:]))
    raise Failed(
        f"The process that made {what} ended with code {code} before it was done. "
        "Try again; the log of the service has its last words.",
        facts={"code": code},
    )


def serve(run: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Reads the work, does it with `run`, answers {"done": true, ...} or {"error": {...}}, and ends the process."""
    told = json.loads(sys.stdin.buffer.readline())

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.nice(_NICE)
    try:
        answer: dict[str, Any] = {"done": True, **run(told)}
    except MistudioError as error:
        kind = type(error).__name__
        answer = {"error": {"kind": kind, "message": error.message, "reason": error.reason, "facts": error.facts}}
    except BaseException:  # the watching thread holds standard input: an orderly exit would wait for it
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)
