"""What runs on a home: the files that `mistudio up` leaves for other commands.

`up.json` names the supervisor and its two processes by id and start time, so that a stale file is
told from a living process; `endpoints.json`, which the gateway writes, has the addresses.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mistudio_core.home import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessRef:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    """Process id."""
    start: int
    """Start time, clock ticks since boot."""

    def alive(self) -> bool:
        """Whether it still runs."""
        return start_of(self.pid) == self.start

    def signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """Addresses of the running gateway."""

    http: str
    """HTTP, host:port."""
    grpc: str
    """gRPC, host:port."""
    url: str
    """Base of every HTTP route."""
    tls: bool = False
    """Whether both are TLS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpState:
    """The supervisor's own record."""

    supervisor: ProcessRef
    """The `mistudio up` process."""
    children: dict[str, ProcessRef] = field(default_factory=dict)
    """`control` and `gateway`."""
    ready: bool = False
    """Whether requests are answered."""


def start_of(pid: int) -> int | None:
    """Start time of a living process; None where there is none."""
    from mistudio_core.processes import process_start_of

    return process_start_of(pid)


def reference(pid: int) -> ProcessRef:
    """A reference to a process that runs now."""
    return ProcessRef(pid=pid, start=start_of(pid) or 0)


def state_file(home: Home) -> Path:
    """Where the supervisor keeps its record."""
    return home.runtime / "up.json"


def read(home: Home) -> Endpoints | None:
    """Addresses of the gateway; None where none runs."""
    raw = _load(home.endpoints_file)
    if raw is None or "grpc" not in raw:
        return None
    tls = bool(raw.get("tls", False))
    http = str(raw.get("http", ""))
    url = str(raw.get("url") or f"{'https' if tls else 'http'}://{http}")
    return Endpoints(http=http, grpc=str(raw["grpc"]), url=url, tls=tls)


def read_state(home: Home) -> UpState | None:
    """The supervisor's record, living or left behind; None where there is none."""
    raw = _load(state_file(home))
    if raw is None:
        return None
    try:
        children = {str(k): ProcessRef(**v) for k, v in dict(raw["children"]).items()}  # type: ignore[call-overload]
        supervisor = ProcessRef(**raw["supervisor"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None
    return UpState(supervisor=supervisor, children=children, ready=bool(raw.get("ready")))


def write_state(home: Home, state: UpState) -> None:
    """Records the supervisor; readers see all of it or nothing."""
    file = state_file(home)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps(asdict(state)) + "\n")
    fresh.replace(file)


def forget(home: Home) -> None:
    """Removes both files."""
    state_file(home).unlink(missing_ok=True)
    home.endpoints_file.unlink(missing_ok=True)


def _load(file: Path) -> dict[str, object] | None:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
