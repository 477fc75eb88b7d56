"""A control process of its own for tests that kill it: `python -m tests.support.processes SERVICE...`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mistudio_core.home import Home

ROOT = Path(__file__).resolve().parents[2]


class ControlProcess:
    """Starts, kills and restarts a control process on one home."""

    def __init__(self, home: Home, *services: str) -> None:
        self.home, self.services = home, services
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until requests are answered."""
        began = time.monotonic()
        log = (self.home.logs / "control.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes", *self.services],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        log.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == b"ready\n", (self.home.logs / "control.log").read_text()[-2000:]
        return time.monotonic() - began

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)
        self._close()
        for pid in running_workers(self.home):  # they outlive their service by design, but not their test
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _close(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def control_process(home: Home, *services: str) -> Iterator[ControlProcess]:
    control = ControlProcess(home, *services)
    control.start()
    try:
        yield control
    finally:
        control.stop()


@contextlib.contextmanager
def gateway_process(home: Home) -> Iterator[dict[str, str]]:
    """The real gateway on free ports; its endpoints (`http`, `grpc`, `url`)."""
    import json

    home.endpoints_file.unlink(missing_ok=True)
    with (home.logs / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.gateway", "--home", str(home.root)),
                *("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--endpoints-file", str(home.endpoints_file)),
            ],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        while not home.endpoints_file.exists():
            assert process.poll() is None, (home.logs / "gateway.log").read_text()[-2000:]
            time.sleep(0.05)
        yield json.loads(home.endpoints_file.read_text())
    finally:
        process.terminate()
        process.wait(timeout=20)


def worker_pid(home: Home, job_id: str) -> int:
    """The process that has a job now, as the database says; 0 for none."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        row = connection.execute(
            "SELECT a.pid FROM attempts a JOIN jobs j ON j.job_id = a.job_id AND j.attempt = a.attempt "
            "WHERE j.job_id = ? AND j.status = 'running' AND a.ended_at IS NULL",
            (job_id,),
        ).fetchone()
    return int(row[0]) if row else 0


def running_workers(home: Home) -> list[int]:
    """Every worker process that still has a job."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        rows = connection.execute("SELECT pid FROM attempts WHERE ended_at IS NULL AND pid > 0").fetchall()
    return [int(row[0]) for row in rows]


def kill_worker(home: Home, job_id: str) -> bool:
    """kill -9 of the worker that has a job; (whether there was one)."""
    pid = worker_pid(home, job_id)
    if pid <= 0:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def main() -> None:
    from mistudio_rpc.devices import DevicePool
    from mistudio_rpc.registry import find_services
    from mistudio_rpc.server import ServerConfig, serve
    from tests.support.scratch import scratch_contract, scratch_entry

    names = sys.argv[1:]
    entries = [scratch_entry()] if "scratch" in names else []
    entries += find_services([n for n in names if n != "scratch"])
    config = ServerConfig(home=Home.at(), contract=scratch_contract(), devices=DevicePool())

    def ready() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    asyncio.run(serve(config, entries, ready))


if __name__ == "__main__":
    main()
