"""200 watchers on one job at 20 durable events a second, half of them not reading.

Latency is from the moment an event is recorded to the moment a reading watcher has it. Readers and
stalled watchers run in a process of their own, each on its own connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import grpc.aio
from mistudio.job.v1 import job_service_pb2

from benchmarks.stack import ROOT, Stack, rss_mb, scratch_call, stack

_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


async def _watch(target: str, token: str, job_id: str, *, reads: bool, until: float, latencies: list[float]) -> int:
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        rpc = channel.unary_stream(
            "/mistudio.job.v1.JobService/WatchJob",
            request_serializer=job_service_pb2.WatchJobRequest.SerializeToString,
            response_deserializer=job_service_pb2.WatchJobResponse.FromString,
        )
        call = rpc(job_service_pb2.WatchJobRequest(job_id=job_id), metadata=metadata)
        await call.read()
        if not reads:
            await asyncio.sleep(max(0.0, until - time.time()))
            call.cancel()
            return 0
        seen = 0
        began = time.time()
        while time.time() < until:
            try:
                response = await asyncio.wait_for(call.read(), max(0.1, until - time.time()))
            except TimeoutError:
                break
            if response is grpc.aio.EOF:
                break
            event = response.event
            if event.sequence and event.WhichOneof("event") == "log":
                recorded = event.time.seconds + event.time.nanos / 1e9
                if recorded > began + 2:  # the first events come in one batch while everyone attaches
                    latencies.append(time.time() - recorded)
                    seen += 1
        call.cancel()
        return seen


async def _clients(target: str, token: str, job_id: str, seconds: float, each: int) -> dict[str, Any]:
    latencies: list[float] = []
    until = time.time() + seconds
    watches = [
        _watch(target, token, job_id, reads=index % 2 == 0, until=until, latencies=latencies)
        for index in range(2 * each)
    ]
    seen = await asyncio.gather(*watches)
    latencies.sort()
    readers = [s for s in seen if s]
    return {
        "readers": each,
        "stalled": each,
        "events_per_reader_min": min(readers, default=0),
        "events_per_reader_max": max(readers, default=0),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1) if latencies else None,
        "p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 1) if latencies else None,
        "max_ms": round(1000 * latencies[-1], 1) if latencies else None,
    }


def _measure(running: Stack, target: str, seconds: float) -> dict[str, Any]:
    job_id = scratch_call(target, running.home, steps=int(20 * (seconds + 15)), step_seconds=0.05, mode="chat")
    time.sleep(3)
    before = {"control": rss_mb(running.control_pid), "gateway": rss_mb(running.gateway_pid)}
    arguments = [target, running.home.token().reveal(), job_id, str(seconds)]
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watchers", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    peak = dict(before)
    while client.poll() is None:
        peak["control"] = max(peak["control"], rss_mb(running.control_pid))
        peak["gateway"] = max(peak["gateway"], rss_mb(running.gateway_pid))
        time.sleep(0.5)
    output = client.stdout.read() if client.stdout else "{}"
    figures = dict(json.loads(output))
    figures["control_growth_mb"] = round(peak["control"] - before["control"], 1)
    figures["gateway_growth_mb"] = round(peak["gateway"] - before["gateway"], 1)
    return figures


def run(seconds: float = 60.0) -> dict[str, Any]:
    """At the service's socket, then through the gateway."""
    with stack("scratch") as running:
        at_service = _measure(running, running.home.control_target, seconds)
    with stack("scratch") as running:
        through_gateway = _measure(running, running.grpc, seconds)
    return {"seconds": seconds, "service": at_service, "gateway": through_gateway}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("target", "token", "job_id"):
        parser.add_argument(name)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(_clients(given.target, given.token, given.job_id, given.seconds, 100))))
