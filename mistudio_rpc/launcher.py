"""Worker processes: a warm spare that takes one job, and news of every worker's end.

A spare is a spawned interpreter with its slow imports done; it waits on a socket for its job, so
secrets and the device's lock travel by that socket and never by environment or arguments. Workers
stand in sessions of their own and outlive the service; one that is not a child is watched through
its pidfd just the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.processes import process_start_of
from mistudio_rpc.devices import DeviceLease


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a worker process ended."""

    code: int | None
    """Exit code, negative for a signal; None where the process was not a child of this one."""
    out_of_memory: bool
    """Whether the kernel killed a process for lack of memory while it ran."""
    with_service: bool = False
    """Whether its service ended with it, unasked: in a container, that is what a lack of memory looks like."""

    @property
    def killed_from_outside(self) -> bool:
        """Whether someone stopped it, rather than itself."""
        outside = (None, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        return self.code in outside and not self.out_of_memory and not self.with_service

    @property
    def message(self) -> str:
        """What happened, one line."""
        if self.out_of_memory:
            return "the worker was killed for lack of memory"
        if self.with_service:
            return "the worker and its service were killed together; in a container, check its memory limit"
        if self.code is None:
            return "the worker is gone"
        if self.code < 0:
            known = -self.code in {s.value for s in signal.Signals}
            return f"the worker was killed by {signal.Signals(-self.code).name if known else f'signal {-self.code}'}"
        return f"the worker ended with exit code {self.code}"


@dataclass(slots=True)
class Worker:
    """A worker process."""

    pid: int
    """Process id."""
    process_start: int
    """Start time, clock ticks since boot: tells it from a later process of the same id."""
    oom_kills: int
    """The kernel's count of out-of-memory kills when it started."""

    def kill(self) -> None:
        """Kills it and what it started."""
        if process_start_of(self.pid) == self.process_start:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


_OWN_MEMORY = Path("/sys/fs/cgroup/memory.events")
"""The container's own counters, where it has some; those of the machine count its neighbours too."""


def _oom_kills() -> int:
    source = _OWN_MEMORY if _OWN_MEMORY.exists() else Path("/proc/vmstat")
    for line in source.read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


_JOB_FD = 3


class _Spare:
    """A worker process that waits for its job."""

    def __init__(self, preload: Sequence[str], log_folder: Path) -> None:
        self.socket, theirs = socket.socketpair()
        log_folder.mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, "-m", "mistudio_rpc.worker", str(_JOB_FD), ",".join(preload)]
        log = str(log_folder / "spare.log")
        # posix_spawn, not Popen: a worker outlives its service by design, and a Popen object must not
        self.pid = os.posix_spawn(
            sys.executable,
            arguments,
            {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # CUDA counts GPUs as NVML does
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _JOB_FD),
            ],
        )
        theirs.close()

    def usable(self) -> bool:
        return process_start_of(self.pid) is not None

    def give(self, job: dict[str, Any], lease: DeviceLease) -> None:
        body = json.dumps(job).encode()
        socket.send_fds(self.socket, [len(body).to_bytes(8, "big")], [lease.fd])
        self.socket.sendall(body)
        self.socket.close()

    def dismiss(self) -> None:
        """Closing the socket ends it; one that is still importing is killed."""
        self.socket.close()
        os.kill(self.pid, signal.SIGKILL)
        _wait(self.pid)


def _wait(pid: int) -> int | None:
    """Exit code of a child, negative for a signal; None for what is no child of this process."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


class Launcher:
    """Starts workers on this machine."""

    def __init__(self, preload: Sequence[str], log_folder: Path) -> None:
        """`preload`: modules that a spare imports before it has a job."""
        self._preload = preload
        self._log_folder = log_folder
        self._spare: _Spare | None = None
        self._watched: dict[int, int] = {}

    def warm(self) -> None:
        """Starts a spare unless there is one; returns at once."""
        if self._spare is not None:
            if self._spare.usable():
                return
            self._spare.dismiss()
        self._spare = _Spare(self._preload, self._log_folder)

    def start(self, job: dict[str, Any], lease: DeviceLease) -> Worker:
        """Gives a job and its device to the spare, or to a fresh process where there is none."""
        self.warm()
        spare, self._spare = self._spare, None
        if spare is None:
            raise RuntimeError("no worker process could be started")
        start = process_start_of(spare.pid) or 0
        spare.give(job, lease)
        return Worker(pid=spare.pid, process_start=start, oom_kills=_oom_kills())

    def adopt(self, pid: int, process_start: int) -> Worker | None:
        """A worker that an earlier service started; None where it is gone."""
        if pid <= 0 or process_start_of(pid) != process_start:
            return None
        return Worker(pid=pid, process_start=process_start, oom_kills=_oom_kills())

    def on_end(self, worker: Worker, callback: Callable[[Ended], None]) -> None:
        """Calls back on the running loop when the worker's process ends."""
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(worker.pid)
        except ProcessLookupError:
            loop.call_soon(callback, _ended(worker))
            return
        self._watched[fd] = worker.pid

        def ended() -> None:
            loop.remove_reader(fd)
            self._watched.pop(fd, None)
            os.close(fd)
            callback(_ended(worker))

        loop.add_reader(fd, ended)

    def close(self) -> None:
        """Dismisses the spare; workers with a job go on."""
        loop = asyncio.get_running_loop()
        for fd in self._watched:
            loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()
        if self._spare is not None:
            self._spare.dismiss()
            self._spare = None


def _ended(worker: Worker) -> Ended:
    return Ended(code=_wait(worker.pid), out_of_memory=_oom_kills() > worker.oom_kills)
