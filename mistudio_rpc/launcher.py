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
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_rpc.devices import DeviceLease


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a worker process ended."""

    code: int | None
    """Exit code, negative for a signal; None where the process was not a child of this one."""
    out_of_memory: bool
    """Whether the kernel killed a process for lack of memory while it ran."""

    @property
    def killed_from_outside(self) -> bool:
        """Whether someone stopped it, rather than itself."""
        outside = (None, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        return self.code in outside and not self.out_of_memory

    @property
    def message(self) -> str:
        """What happened, one line."""
        if self.out_of_memory:
            return "the worker was killed for lack of memory"
        if self.code is None:
            return "the worker is gone"
        if self.code < 0:
            return f"the worker was killed by {signal.Signals(-self.code).name}"
        return f"the worker ended with exit code {self.code}"


@dataclass(slots=True)
class Worker:
    """A worker process."""

    pid: int
    """Process id."""
    process_start: int
    """Start time, clock ticks since boot: tells it from a later process of the same id."""
    process: subprocess.Popen[bytes] | None
    """The child; None for one that an earlier service started."""
    oom_kills: int
    """The kernel's count of out-of-memory kills when it started."""

    def kill(self) -> None:
        """Kills it and what it started."""
        if process_start_of(self.pid) == self.process_start:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def process_start_of(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _oom_kills() -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


class _Spare:
    """A worker process that waits for its job."""

    def __init__(self, preload: Sequence[str], log_folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        log_folder.mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, "-m", "mistudio_rpc.worker", str(theirs.fileno()), ",".join(preload)]
        with (log_folder / "spare.log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()

    def usable(self) -> bool:
        return self.process.poll() is None

    def give(self, job: dict[str, Any], lease: DeviceLease) -> None:
        body = json.dumps(job).encode()
        socket.send_fds(self.socket, [len(body).to_bytes(8, "big")], [lease.fd])
        self.socket.sendall(body)
        self.socket.close()

    def dismiss(self) -> None:
        self.socket.close()  # it reads the end of the stream and exits
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
        if self._spare is not None and self._spare.usable():
            return
        self._spare = _Spare(self._preload, self._log_folder)

    def start(self, job: dict[str, Any], lease: DeviceLease) -> Worker:
        """Gives a job and its device to the spare, or to a fresh process where there is none."""
        self.warm()
        spare, self._spare = self._spare, None
        if spare is None:
            raise RuntimeError("no worker process could be started")
        start = process_start_of(spare.process.pid) or 0
        spare.give(job, lease)
        return Worker(pid=spare.process.pid, process_start=start, process=spare.process, oom_kills=_oom_kills())

    def adopt(self, pid: int, process_start: int) -> Worker | None:
        """A worker that an earlier service started; None where it is gone."""
        if pid <= 0 or process_start_of(pid) != process_start:
            return None
        return Worker(pid=pid, process_start=process_start, process=None, oom_kills=_oom_kills())

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
    code = None if worker.process is None else worker.process.wait()
    return Ended(code=code, out_of_memory=_oom_kills() > worker.oom_kills)
