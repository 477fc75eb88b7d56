"""Listing and searching an analysis of 32,768 features: 20 texts of 65 tokens each, words by Zipf's law.

`python -m benchmarks.run find_queries` publishes the analysis, serves it from a process of its own, and calls it over
gRPC from this one. Times are wall clock from the call to the parsed reply: the first call, and then warm ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mistudio.find.v1 import find_service_pb2

    from mistudio_rpc.client import Client

FEATURES, TEXTS, TOKENS = 32_768, 20, 65
_VOCABULARY = 50_000
_WARM = 15
_FILTER = "coherence_score >= 0.3 AND NOT dead = true AND pattern_category = technical"
_LISTS: dict[str, dict[str, Any]] = {
    "first page": {},
    "filtered and sorted": {"filter": _FILTER, "order_by": "activation_statistics.frequency desc"},
    "filtered by a tag and a word": {"filter": 'semantic_tags:"tag3" AND w300', "order_by": "importance desc"},
    "sorted by an indicator": {"order_by": "behavioral_indicators.refusal desc"},
    "nothing found": {"filter": "coherence_score > 2"},
}
_SEARCHES = {
    "a rare word": "w9000",
    "a middling word": "w300",
    "a word of every feature": "w0",
    "two words of every feature": "w0 w1",
    "a phrase of the commonest words": '"w2 w3"',
}


def _records(count: int) -> Iterator[dict[str, Any]]:
    """Features whose words follow Zipf's law; word n is called wn."""
    from tests.support.analyses import feature

    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, _VOCABULARY + 1)
    limits = np.cumsum(share / share.sum())
    for number in range(count):
        ids = np.minimum(np.searchsorted(limits, rng.random(TEXTS * TOKENS)), _VOCABULARY - 1)
        words = [f"w{i}" for i in ids.tolist()]
        texts = [" ".join(words[at : at + TOKENS]) for at in range(0, len(words), TOKENS)]
        coherence = round(float(rng.random()), 5)
        yield feature(
            number,
            texts,
            coherence_score=coherence,
            importance=round(float(rng.random()), 5),
            pattern_keywords=words[:10],
            semantic_tags=[f"tag{i}" for i in set(rng.integers(0, 40, 3).tolist())],
            behavioral_indicators=[{"name": "refusal", "score": round(float(rng.random()), 4)}],
            driving_tokens=[{"text": w, "count": 9, "share": 0.1, "lift": 2.0} for w in words[10:20]],
        )


def run(features: int = FEATURES) -> dict[str, Any]:
    """Milliseconds by call, and what publishing took."""
    from mistudio_core.home import Home

    with TemporaryDirectory() as folder:
        home = Home.at(Path(folder) / "home")
        job_id, published = asyncio.run(_publish(home, features))
        command = [sys.executable, "-m", "benchmarks.find_queries", str(home.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                if server.stdout is None or "ready" not in server.stdout.readline():
                    raise SystemExit("the server did not start")
                return {"features": features, **published, **_measure(home, job_id, server.pid)}
            finally:
                server.send_signal(signal.SIGTERM)


async def _publish(home: Any, features: int) -> tuple[str, dict[str, Any]]:
    from mistudio_find.table import TABLE_FILE, TableWriter
    from mistudio_rpc.runtime import Runtime
    from tests.support.analyses import complete, running_job

    sample = list(_records(512))
    with TemporaryDirectory() as folder:
        began = time.process_time()
        with TableWriter(Path(folder) / TABLE_FILE, features=512) as writer:
            for place, record in enumerate(sample):
                writer.add(place, record)
        cpu = time.process_time() - began
    runtime = await Runtime.open(home, services=["find"])
    lease = await running_job(runtime)
    artifact = await complete(runtime, lease, _records(features))
    await runtime.close()
    sizes = {file.name: round(file.size_bytes / 1e6, 1) for file in artifact.files}
    return lease.job_id, {"megabytes": sizes, "table_features_per_cpu_second": round(512 / cpu)}


def _measure(home: Any, job_id: str, server: int) -> dict[str, Any]:
    from mistudio.find.v1 import find_service_pb2 as pb

    from mistudio_rpc.client import Client

    with Client(home.control_target, home.token()) as client:
        began = time.perf_counter()
        first = client.find.ListFeatures(pb.ListFeaturesRequest(job_id=job_id, **_LISTS["filtered and sorted"]))
        opened = round(1000 * (time.perf_counter() - began), 1)
        figures: dict[str, Any] = {
            "page_kilobytes": round(first.ByteSize() / 1000),
            "first_call_ms": opened,
            "list_ms": {},
            "search_ms": {},
        }
        for name, fields in _LISTS.items():
            request = pb.ListFeaturesRequest(job_id=job_id, **fields)
            figures["list_ms"][name] = _times(_listing(client, request), server)
        for name, query in _SEARCHES.items():
            search = pb.SearchFeaturesRequest(job_id=job_id, query=query)
            figures["search_ms"][name] = _times(_searching(client, search), server)
        one = pb.GetFeatureRequest(job_id=job_id, feature_id=7)
        figures["get_ms"] = _times(lambda: client.find.GetFeature(one).feature.feature_id, server)
    return figures


def _listing(client: Client, request: find_service_pb2.ListFeaturesRequest) -> Callable[[], int]:
    return lambda: client.find.ListFeatures(request).total_features


def _searching(client: Client, request: find_service_pb2.SearchFeaturesRequest) -> Callable[[], int]:
    return lambda: client.find.SearchFeatures(request).total_hits


def _times(call: Callable[[], int], server: int) -> dict[str, float]:
    """Wall milliseconds of warm calls, and the processor time that the server took for one."""
    found, times, before = call(), [], _cpu_seconds(server)
    for _ in range(_WARM):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return {
        "found": found,
        "median": round(statistics.median(times), 1),
        "best": round(min(times), 1),
        "worst": round(max(times), 1),
        "server_cpu": round(1000 * (_cpu_seconds(server) - before) / _WARM, 1),
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _serve(root: Path) -> None:
    from mistudio_core.home import Home
    from tests.support.analyses import serving_finds

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serving_finds(Home.at(root)):
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    asyncio.run(_serve(parser.parse_args().home))
