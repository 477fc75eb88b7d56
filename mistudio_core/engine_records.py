"""The processes of managed engines, as a file of the home: who serves what, on which port.

The control process writes it at each change; workers read it to find engines, a later control
process to find its engines again, and `mistudio down` to end what is left. Owns the form and the
place of the file and of the wishes that workers leave; who starts what is decided elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mistudio_core import clock
from mistudio_core.home import Home, private_folder
from mistudio_core.processes import ProcessName

STOPPED, STARTING, READY, DRAINING, FAILED = "stopped", "starting", "ready", "draining", "failed"
"""Where a process stands."""
_POLL_SECONDS = 0.05
_IGNORED_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """One process of an engine, pinned to one device."""

    engine: str
    """Name of the engine."""
    device: str
    """`cuda:0`, or the processor cores `cpu:0-3`."""
    state: str
    """Where it stands."""
    model: str
    """Model that it serves."""
    pid: int = 0
    """Process id; 0 while there is none."""
    process_start: int = 0
    """Start time of the process, clock ticks since boot."""
    port: int = 0
    """Port on 127.0.0.1; 0 while there is none."""
    key_file: str = ""
    """Name of the file with its key in the home's secrets."""
    log_file: str = ""
    """Name of its log in the home's log folder."""
    restarts: int = 0
    """How often it was started again after it ended by itself."""
    since: str = ""
    """When it came to stand there, ISO 8601 in UTC."""
    message: str = ""
    """Why it stands there; for a failed one the last lines of its log."""
    held: bool = False
    """Whether a person stopped it: only a person starts it again."""
    digest: str = ""
    """Digest of the settings that it was started with."""
    in_flight: int = 0
    """Requests that it works on, as last heard."""
    memory_bytes: int = 0
    """Bytes of device memory, or resident bytes on a processor; 0 where unknown."""

    @property
    def process(self) -> ProcessName:
        """The process."""
        return ProcessName(pid=self.pid, start=self.process_start)


def engines_folder(home: Home) -> Path:
    """Where engines keep what is not secret: the state, wishes, environments."""
    return home.root / "engines"


def state_file(home: Home) -> Path:
    """The file with the records."""
    return engines_folder(home) / "state.json"


def read_records(home: Home) -> list[EngineRecord]:
    """The records; empty where there is no file, or none that can be read."""
    try:
        value = json.loads(state_file(home).read_text(encoding="utf-8"))
        known = {f.name for f in fields(EngineRecord)}
        return [EngineRecord(**{k: v for k, v in row.items() if k in known}) for row in value["processes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def write_records(home: Home, records: Sequence[EngineRecord]) -> None:
    """Replaces the file; readers see all of it or what was there before."""
    file = state_file(home)
    private_folder(file.parent)
    fresh = file.with_name(f".state.{os.getpid()}")
    fresh.write_text(json.dumps({"processes": [asdict(r) for r in records]}) + "\n", encoding="utf-8")
    fresh.replace(file)


def wish(home: Home, engine: str, model: str) -> None:
    """Says that a worker wants an engine; the control process starts it unless a person stopped it."""
    folder = engines_folder(home) / "wanted"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / engine).exists():
        return  # its age tells whether anyone grants wishes
    fresh = folder / f".{engine}.{os.getpid()}"
    fresh.write_text(model, encoding="utf-8")
    fresh.replace(folder / engine)


def wish_ignored(home: Home, engine: str) -> bool:
    """Whether a wish lies there for long and no control process runs that could grant it."""
    try:
        made = (engines_folder(home) / "wanted" / engine).stat().st_mtime
    except FileNotFoundError:
        return False
    if clock.now().timestamp() - made < _IGNORED_SECONDS:
        return False
    try:
        with (home.runtime / "control.lock").open() as lock:  # held by a control process while it lives
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def take_wishes(home: Home) -> dict[str, str]:
    """Model by engine of all wishes since the last call; removes them."""
    folder = engines_folder(home) / "wanted"
    found: dict[str, str] = {}
    for file in folder.glob("[!.]*") if folder.is_dir() else ():
        try:
            found[file.name] = file.read_text(encoding="utf-8")
            file.unlink()
        except (OSError, UnicodeDecodeError):
            continue
    return found


def end_all(home: Home, *, seconds: float = 10.0) -> int:
    """Ends every process that the file names, and forgets them; how many there were.

    SIGTERM first, SIGKILL to the whole session after `seconds`.
    """
    named = [r.process for r in read_records(home) if r.pid > 0]
    living = [p for p in named if p.alive]
    for process in living:
        process.signal(signal.SIGTERM)
    ends = clock.monotonic() + seconds
    while any(p.alive for p in living) and clock.monotonic() < ends:
        time.sleep(_POLL_SECONDS)
    for process in named:
        process.kill_session()
    state_file(home).unlink(missing_ok=True)
    return len(living)
