"""Keeps the control process and the gateway running: what `mistudio up` does until it is stopped.

It holds one lock a home, starts both, waits until requests are answered through the gateway, then
restarts whichever dies. At the end the gateway drains first, then the control process; workers go
on by themselves. It imports neither grpc nor a service, and so stays small.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mistudio_cli import endpoints
from mistudio_cli.children import Child
from mistudio_cli.endpoints import Endpoints, UpState
from mistudio_core import clock
from mistudio_core.errors import MistudioError, Unavailable
from mistudio_core.home import Home

READY_SECONDS = 60.0
GATEWAY_STOP_SECONDS = 20.0
CONTROL_STOP_SECONDS = 30.0
SERVICES = ("train", "find", "explain")
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class UpConfig:
    """What to run."""

    home: Home
    """The installation."""
    http: str = "127.0.0.1:8001"
    """Where the gateway listens for HTTP."""
    grpc: str = "127.0.0.1:50051"
    """Where the gateway listens for gRPC."""
    probe: str = ""
    """Where the gateway answers health checks alone; empty for nowhere."""
    tls: tuple[Path | None, Path | None, Path | None] = (None, None, None)
    """Certificate, key and authority of the gateway's listeners."""
    cpu_jobs: int = 1
    """Jobs at a time on the CPU."""
    checkpoint_seconds: float = 0.0
    """Seconds that workers have to write a checkpoint at a stop; 0 where they outlive it."""
    host_names: tuple[str, ...] = field(default=())
    """Further names that Host headers may carry."""


@contextlib.contextmanager
def only_one(home: Home) -> Iterator[bool]:
    """Holds the home's supervisor lock; False where another process has it."""
    with (home.runtime / "up.lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def running(home: Home) -> bool:
    """Whether a supervisor holds the home's lock; makes nothing."""
    if not (home.runtime / "up.lock").exists():
        return False
    with only_one(home) as free:
        return not free


class Supervisor:
    """Both processes of one installation."""

    def __init__(self, config: UpConfig) -> None:
        """Starts nothing yet. The caller holds `only_one`."""
        home = config.home
        self._home = home
        self._stopping = False
        self.control = Child("control", _control_arguments(config), home.logs / "control.log")
        self.gateway = Child("gateway", _gateway_arguments(config), home.logs / "gateway.log")

    def run(self, on_ready: Callable[[Endpoints], None]) -> None:
        """Runs until SIGTERM or SIGINT. Raises MistudioError where it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        stop_leftovers(self._home)
        try:
            for child in (self.control, self.gateway):
                child.start()
            self._record(ready=False)
            found = self._wait_until_ready()
            if found is not None:
                self._keep_ports(found)
                self._record(ready=True)
                on_ready(found)
            while not self._stopping:
                restarted = [child.name for child in (self.control, self.gateway) if child.tend()]
                if restarted:
                    self._record(ready=True)
                time.sleep(_POLL_SECONDS)
        finally:
            self.gateway.stop(GATEWAY_STOP_SECONDS)
            self.control.stop(CONTROL_STOP_SECONDS)
            endpoints.forget(self._home)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _wait_until_ready(self) -> Endpoints | None:
        """Where it listens, once it answers; None where it was stopped before."""
        ends = clock.monotonic() + READY_SECONDS
        while not self._stopping:
            for child in (self.control, self.gateway):
                if child.ended() is not None:
                    raise _failed_start(child)
            found = endpoints.read(self._home)
            if found is not None and answers(found):
                return found
            if clock.monotonic() > ends:
                raise Unavailable(f"Nothing answers after {READY_SECONDS:.0f} s. See the logs in {self._home.logs}.")
            time.sleep(_POLL_SECONDS)
        return None

    def _keep_ports(self, found: Endpoints) -> None:
        """A restarted gateway listens where the first one did, free ports included."""
        arguments = self.gateway.arguments
        arguments[arguments.index("--http") + 1] = found.http
        arguments[arguments.index("--grpc") + 1] = found.grpc

    def _record(self, *, ready: bool) -> None:
        children = {c.name: c.ref for c in (self.control, self.gateway) if c.ref is not None}
        state = UpState(supervisor=endpoints.reference(os.getpid()), children=children, ready=ready)
        endpoints.write_state(self._home, state)


def answers(found: Endpoints) -> bool:
    """Whether the gateway accepts gRPC and answers /health, which the control process behind it gives."""
    if not _accepts(found.grpc):
        return False
    return _accepts(found.http) if found.tls else health(found) is not None


def health(found: Endpoints) -> dict[str, object] | None:
    """What GET /health says without TLS; None where it does not answer 200."""
    connection = http.client.HTTPConnection(found.http, timeout=2)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        value = json.loads(response.read()) if response.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return value if isinstance(value, dict) else None


def stop_leftovers(home: Home) -> None:
    """Stops the processes of a supervisor that was killed; the gateway first. Workers go on."""
    state = endpoints.read_state(home)
    if state is not None:
        for name, seconds in (("gateway", GATEWAY_STOP_SECONDS), ("control", CONTROL_STOP_SECONDS)):
            child = state.children.get(name)
            if child is None:
                continue
            child.signal(signal.SIGTERM)
            ends = clock.monotonic() + seconds
            while child.alive() and clock.monotonic() < ends:
                time.sleep(_POLL_SECONDS)
            child.signal(signal.SIGKILL)
    endpoints.forget(home)


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True


def _failed_start(child: Child) -> MistudioError:
    """What a process that could not start said, as an error of our own."""
    words = child.last_words()
    reason, colon, message = words.partition(": ")
    if colon and reason.replace("_", "").isalnum() and reason.isupper():
        hint = ""
        if reason == "ADDRESS_IN_USE" and child.name == "gateway" and "--http" not in message:
            hint = " Choose others with --http and --grpc; port 0 takes a free one."
        return Unavailable(message + hint, reason=reason)
    return Unavailable(f"The {child.name} process could not start: {words or 'it said nothing'}", reason="UNAVAILABLE")


def _control_arguments(config: UpConfig) -> list[str]:
    home = str(config.home.root)
    program = [sys.executable, "-m", "mistudio_cli", "serve", *SERVICES]
    arguments = [*program, "--home", home, "--cpu-jobs", str(config.cpu_jobs)]
    return [*arguments, "--checkpoint-seconds", str(config.checkpoint_seconds)]


def _gateway_arguments(config: UpConfig) -> list[str]:
    home = config.home
    arguments = [sys.executable, "-m", "gateway", "--home", str(home.root), "--http", config.http]
    arguments += ["--grpc", config.grpc, "--endpoints-file", str(home.endpoints_file)]
    if config.probe:
        arguments += ["--probe-address", config.probe]
    for option, path in zip(("--tls-cert", "--tls-key", "--tls-ca"), config.tls, strict=True):
        if path is not None:
            arguments += [option, str(path)]
    for name in config.host_names:
        arguments += ["--host-name", name]
    return arguments
