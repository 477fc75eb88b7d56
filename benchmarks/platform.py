"""What the platform costs: ready time, idle memory, time from submit to the first worker event."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.stack import Stack, pss_mb, rss_mb, scratch_call, stack
from mistudio_rpc.client import Client


def _spares(control_pid: int) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == control_pid:
            children.append(int(path.parent.name))
    return children


def idle() -> dict[str, Any]:
    """Ready with an existing database, and memory once everything is quiet."""
    with TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with stack("train", "find", "explain", home=home):
            pass
        with stack("train", "find", "explain", home=home) as running:
            time.sleep(12)  # the spare has its imports done
            spares = _spares(running.control_pid)
            return {
                "ready_s": round(running.ready_s, 2),
                "control_rss_mb": round(rss_mb(running.control_pid), 1),
                "gateway_rss_mb": round(rss_mb(running.gateway_pid), 1),
                "spare_rss_mb": round(sum(rss_mb(p) for p in spares), 1),
                "spare_pss_mb": round(sum(pss_mb(p) for p in spares), 1),
            }


def first_event(runs: int = 20) -> dict[str, Any]:
    """Submit to the first event from the worker, through the gateway, with a warm spare each time."""
    with stack("scratch") as running:
        times = []
        for _ in range(runs):
            time.sleep(2.0)  # a spare is warm again
            times.append(_one(running))
    return {
        "runs": runs,
        "median_s": round(statistics.median(times), 3),
        "max_s": round(max(times), 3),
        "min_s": round(min(times), 3),
    }


def _one(running: Stack) -> float:
    with closing(Client(running.grpc, running.home.token())) as client:
        began = time.monotonic()
        job_id = scratch_call(running.grpc, running.home, steps=4, step_seconds=0.02)
        for event in client.watch(job_id):
            if event.WhichOneof("event") in ("progress", "metric", "log"):
                took = time.monotonic() - began
                break
        list(client.watch(job_id))
        return took
