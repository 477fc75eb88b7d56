"""One supervised process: start, notice its end, restart with backoff, stop.

The first restart is at once, later ones wait longer; a process that ran well for a while starts
over. Output goes to a log file, whose fresh part explains a failed start.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mistudio_cli.endpoints import ProcessRef, reference
from mistudio_core import clock

PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_SECONDS = 30.0
LOG_BYTES = 10_000_000


class Child:
    """A process that `mistudio up` keeps running."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        """Starts nothing yet; `arguments` may change between starts."""
        self.name = name
        self.arguments = list(arguments)
        self.ref: ProcessRef | None = None
        self._log = log
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = 0.0
        self._due: float | None = None

    def start(self) -> None:
        """Starts the process in a group of its own, so that Ctrl-C reaches the supervisor alone."""
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        self.ref = reference(self._process.pid)
        self._started, self._due = clock.monotonic(), None

    def ended(self) -> int | None:
        """Exit code once it has ended; None while it runs or was not started."""
        return None if self._process is None else self._process.poll()

    def tend(self) -> bool:
        """Restarts the process when it has ended and its pause is over; True where it did."""
        if self.ended() is None:
            return False
        now = clock.monotonic()
        if self._due is None:
            self._failures = 0 if now - self._started > HEALTHY_SECONDS else self._failures
            self._due = now + PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
        if now < self._due:
            return False
        self.start()
        return True

    def last_words(self) -> str:
        """What it logged since its start: the last line that says something."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._log_from)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL where it has not ended in time."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
