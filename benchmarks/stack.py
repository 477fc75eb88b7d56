"""A control process and a gateway of their own for a benchmark, on a fresh home and free ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.home import Home

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The running processes."""

    home: Home
    control_pid: int
    gateway_pid: int
    grpc: str
    """Address of the gateway's gRPC entry."""
    http: str
    """Address of the gateway's HTTP entry."""
    ready_s: float
    """Seconds until the control process answered."""


@contextlib.contextmanager
def stack(*services: str, home: Path | None = None) -> Iterator[Stack]:
    """Starts both, with the scratch service of the tests where it is named."""
    with tempfile.TemporaryDirectory() as folder:
        place = Home.at(home or Path(folder) / "home")
        environment = {
            **os.environ,
            "MISTUDIO_HOME": str(place.root),
            "MISTUDIO_DEVICE_DIR": str(place.root / "devices"),
            "PYTHONPATH": str(ROOT),
        }
        log = (place.logs / "benchmark.log").open("ab")
        began = time.monotonic()
        scratch = "scratch" in services
        serving = ["tests.support.processes", *services] if scratch else ["mistudio_cli", "serve", *services, "--json"]
        control = subprocess.Popen(
            [sys.executable, "-m", *serving],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        if control.stdout is None or b"ready" not in control.stdout.readline():
            raise RuntimeError((place.logs / "benchmark.log").read_text()[-2000:])
        ready_s = time.monotonic() - began
        arguments = ["--home", str(place.root), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        gateway = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.gateway" if scratch else "gateway",
                *arguments,
                "--endpoints-file",
                str(place.endpoints_file),
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            where = _endpoints(place)
            yield Stack(
                home=place,
                control_pid=control.pid,
                gateway_pid=gateway.pid,
                grpc=where["grpc"],
                http=where["http"],
                ready_s=ready_s,
            )
        finally:
            for process in (gateway, control):
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=40)
            control.stdout.close()
            log.close()


def _endpoints(home: Home) -> dict[str, str]:
    for _ in range(300):
        if home.endpoints_file.exists():
            return dict(json.loads(home.endpoints_file.read_text()))
        time.sleep(0.1)
    raise RuntimeError("the gateway did not start: " + (home.logs / "benchmark.log").read_text()[-2000:])


def rss_mb(pid: int) -> float:
    """Resident memory of a process, MB (1e6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def pss_mb(pid: int) -> float:
    """Proportional memory of a process, MB (1e6 bytes): shared pages count once over all processes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def scratch_call(target: str, home: Home, **fields: object) -> str:
    """Starts a scratch job; its id."""
    import grpc

    from tests.support.scratch import scratch_pb2

    request = scratch_pb2().StartScratchRequest(**fields)
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(
            "/mistudio.scratch.v1.ScratchService/StartScratch",
            request_serializer=type(request).SerializeToString,
            response_deserializer=scratch_pb2().StartScratchResponse.FromString,
        )
        token = (("authorization", f"Bearer {home.token().reveal()}"),)
        return str(call(request, timeout=20, metadata=token).job_id)
