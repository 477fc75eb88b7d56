"""Completed and running analyses without a worker: made-up features, published and recorded as Find would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from mistudio_core.artifacts import ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.home import Home
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.records import NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_find.outputs import RecordSpool
from mistudio_find.service import FindServicer
from mistudio_rpc.contract import installed
from mistudio_rpc.interceptors import ContractInterceptor
from mistudio_rpc.job_service import JobServicer
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.server import bind, register

TIERS = ("excellent", "good", "fair", "poor")
CATEGORIES = ("technical", "conversational", "behavioral", "temporal", "general")


def activation(text: str, strength: float = 1.0) -> dict[str, Any]:
    """A top text whose tokens are its words, the first one the strongest."""
    words = text.split(" ")
    tokens = [words[0], *(f" {word}" for word in words[1:])]
    return {
        "text": text,
        "activation_strength": strength,
        "context": "",
        "tokens": tokens,
        "document": 0,
        "position": 0,
        "activations": [strength, *[0.0] * (len(tokens) - 1)],
    }


def feature(feature_id: int, texts: Sequence[str] = ("some text",), **changes: Any) -> dict[str, Any]:
    """A record in the form of Find's; coherence falls with the index unless changed."""
    coherence = round(1 / (1 + feature_id / 10), 4)
    return {
        "feature_id": feature_id,
        "coherence_score": coherence,
        "quality_level": next(t for t, low in zip(TIERS, (0.8, 0.6, 0.4, 0.0), strict=True) if coherence >= low),
        "pattern_category": CATEGORIES[feature_id % len(CATEGORIES)],
        "category_confidence": 0.5,
        "pattern_keywords": [],
        "top_activations": [activation(text, 2.0 - i / 100) for i, text in enumerate(texts)],
        "quantile_activations": [activation("a weaker text", 0.5)],
        "contrast_texts": ["a silent text"],
        "activation_statistics": {
            "mean": 0.5,
            "std": 0.25,
            "frequency": round(0.5 / (1 + feature_id % 7), 6),
            "max": 2.0,
            "count": 10 * feature_id,
            "documents": feature_id,
            "skew": round((feature_id % 5 - 2) / 4, 4),
            "histogram_edges": [0.0, 2.0],
            "histogram_counts": [10 * feature_id],
        },
        "dead": False,
        "complexity": ("low", "medium", "high")[feature_id % 3],
        "sae_sha256": "ab" * 32,
        "judge_texts": [],
        **changes,
    }


def publish(writer: ArtifactWriter, records: Iterable[dict[str, Any]], scratch: Path) -> None:
    """Writes the files that queries read, in the order that Find uses; `records` come in order of their index."""
    spool = RecordSpool(scratch / "features.spool")
    for record in records:
        spool.add(record)
    spool.close()
    keys = np.array([(row["dead"], -row["coherence_score"]) for row in spool.rows], np.float64).reshape(-1, 2)
    spool.publish(writer, np.lexsort((keys[:, 1], keys[:, 0])), {"job_id": "made up"}, lambda _share: None)
    spool.remove()


async def running_job(runtime: Runtime) -> Lease:
    """A Find job in the hands of this process."""
    job, _ = await runtime.jobs.start(NewJob(service="find", request=b"", request_id="", model_name="toy", inputs={}))
    claim = await runtime.jobs.claim(job.job_id, "cpu:0")
    assert claim is not None
    await runtime.jobs.set_process(job.job_id, claim.job.attempt, os.getpid(), 0)
    return Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)


async def complete(runtime: Runtime, lease: Lease, records: Iterable[dict[str, Any]]) -> ArtifactRecord:
    """Publishes the analysis and ends its job."""
    store = ArtifactStore(runtime.home.artifacts)
    uri = artifact_uri(lease.job_id, "features", "analysis")
    writer = store.stage(uri, "features", job_id=lease.job_id, attempt=lease.attempt)
    runtime.home.scratch.mkdir(parents=True, exist_ok=True)
    publish(writer, records, runtime.home.scratch)
    artifact = writer.seal()
    await runtime.worker_jobs.commit_artifact(lease, artifact)
    await runtime.worker_jobs.finish(lease, Outcome(result=b""))
    return artifact


async def completed_job(runtime: Runtime, records: Iterable[dict[str, Any]]) -> str:
    """A completed analysis; its job id."""
    lease = await running_job(runtime)
    await complete(runtime, lease, records)
    return lease.job_id


class Finds:
    """Find's RPCs on a server without a dispatcher, called by name."""

    def __init__(self, runtime: Runtime, channel: grpc.aio.Channel, target: str) -> None:
        self.runtime, self.target, self._channel = runtime, target, channel
        self.metadata = (("authorization", f"Bearer {runtime.home.token().reveal()}"),)

    def rpc(self, name: str) -> tuple[Callable[..., Any], Any]:
        """(the call, the class of its request)."""
        method = installed().methods[f"/mistudio.find.v1.FindService/{name}"]
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = kind(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response_class.FromString,
        )
        return call, method.request_class

    async def call(self, name: str, **fields: Any) -> Any:
        """A unary call. Raises grpc.aio.AioRpcError."""
        rpc, request = self.rpc(name)
        return await rpc(request(**fields), metadata=self.metadata, timeout=30)

    def stream(self, name: str, **fields: Any) -> Any:
        """A stream of responses."""
        rpc, request = self.rpc(name)
        return rpc(request(**fields), metadata=self.metadata, timeout=60)


@contextlib.asynccontextmanager
async def serving_finds(home: Home) -> AsyncIterator[Finds]:
    """Serves Find and the jobs on the home's socket."""
    runtime = await Runtime.open(home, services=["find"])
    server = grpc.aio.server(interceptors=[ContractInterceptor(installed(), home.token())])
    register(server, installed(), "mistudio.find.v1.FindService", FindServicer(runtime))
    register(server, installed(), "mistudio.job.v1.JobService", JobServicer(runtime))
    bind(server, home.control_target, None)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(
            home.control_target, options=[("grpc.max_receive_message_length", 16 << 20)]
        ) as channel:
            yield Finds(runtime, channel, home.control_target)
    finally:
        await server.stop(1.0)
        await runtime.close()
