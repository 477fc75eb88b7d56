"""Facts about processes of this machine, from /proc: who still runs, and what it holds.

A process is named by its id and its start time together, so that a later process of the same id is
never taken for it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


def process_start_of(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def resident_bytes_of(pid: int) -> int:
    """Resident memory of a process; 0 where there is none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessName:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    """Process id; 0 for none."""
    start: int
    """Start time, clock ticks since boot."""

    @staticmethod
    def of(pid: int) -> ProcessName:
        """The name of a process that runs now."""
        return ProcessName(pid=pid, start=process_start_of(pid) or 0)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.pid > 0 and process_start_of(self.pid) == self.start

    def signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def kill_session(self) -> None:
        """Kills all of the session that it leads or led, children that outlived it too.

        While any of them lives, the kernel gives its id to no other process; once another process has
        the id, none of them is left.
        """
        if self.pid <= 0 or process_start_of(self.pid) not in (None, self.start):
            return
        for pid in session_members(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def session_members(session: int) -> list[int]:
    """Ids of the living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found
