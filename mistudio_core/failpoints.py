"""Named places where a test makes a process fail.

`failpoint("checkpoint.before_rename")` does nothing unless MISTUDIO_FAILPOINTS names it, as in
`MISTUDIO_FAILPOINTS="checkpoint.before_rename=kill9;artifact.write=enospc"`. Actions: `kill9`,
`enospc`, `eio`, `sleep:<seconds>`, `once:<file>:<action>` (only while the file does not exist).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path


def failpoint(name: str) -> None:
    """Runs the action that the environment sets for `name`, if any."""
    configured = os.environ.get("MISTUDIO_FAILPOINTS")
    if not configured:
        return
    for entry in configured.split(";"):
        point, _, action = entry.partition("=")
        if point == name:
            _act(action)


def _act(action: str) -> None:
    verb, _, argument = action.partition(":")
    if verb == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif verb == "eio":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    elif verb == "sleep":
        time.sleep(float(argument))
    elif verb == "once":
        marker, _, inner = argument.rpartition(":")
        if not Path(marker).exists():
            Path(marker).touch()
            _act(inner)
    else:
        raise ValueError(f"unknown failpoint action {action!r}")
