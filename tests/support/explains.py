"""Completed explanation runs without a worker: made-up explanations, written and recorded as a run would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio
from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.artifacts import ArtifactStore
from mistudio_core.home import Home
from mistudio_core.jobs.local import LocalContext
from mistudio_core.jobs.records import NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_explain import convert, outputs
from mistudio_explain.book import Book
from mistudio_explain.config import ExplainResult, Explanation, QualityParts
from mistudio_explain.evidence import FeatureEvidence, TopText
from mistudio_explain.insights import summarise
from mistudio_explain.service import ExplainServicer
from mistudio_find.service import FindServicer
from mistudio_rpc.contract import installed
from mistudio_rpc.interceptors import ContractInterceptor
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.server import bind, register

CATEGORIES = ("technical", "conversational", "behavioral", "temporal", "general")
TECHNICAL: dict[str, Any] = {
    "model": "toy",
    "sae_sha256": "ab" * 32,
    "corpus_sha256": "cd" * 32,
    "find_job": "find_1",
    "training_job": "train_1",
    "safety_rules": "safety/1",
    "metrics": "2",
    "configuration": {"engine": "lexical", "seed": 0},
    "rule_files": {"rules/safety.v1.json": "ef" * 32},
}


def explanation(feature_id: int, **changes: Any) -> Explanation:
    """An explanation; quality falls with the index unless changed."""
    quality = round(max(0.0, 0.95 - feature_id / 100), 4)
    given: dict[str, Any] = {
        "feature_id": feature_id,
        "original_coherence": 0.5,
        "explanation": f'Fires on the word "word{feature_id}". It stands in texts about gardens.',
        "explanation_quality": quality,
        "explanation_confidence": 0.7,
        "pattern_verification": "confirmed",
        "safety_assessment": "neutral",
        "safety_reason": "",
        "business_relevance": "medium",
        "quality_parts": QualityParts(
            accuracy=quality,
            clarity=0.9,
            consistency=0.8,
            relevance=0.5,
            accuracy_method="lexical-auroc/1",
            activating_texts=10,
            silent_texts=10,
            accuracy_low=max(0.0, quality - 0.1),
            accuracy_high=min(1.0, quality + 0.1),
        ),
        "pattern_category": CATEGORIES[feature_id % len(CATEGORIES)],
        "pattern_keywords": (f"word{feature_id}", "garden"),
        "explanation_keywords": (f"word{feature_id}",),
        "engine": "lexical",
        "model": "lexical/1",
    }
    return Explanation(**(given | changes))


def evidence(feature_id: int, text: str = "", **changes: Any) -> FeatureEvidence:
    """Evidence of a feature, one text of it given."""
    words = [f" {w}" for w in (text or f"a garden with word{feature_id} in it").split(" ")]
    top = TopText(
        text="".join(words),
        tokens=tuple(words),
        activations=tuple(float(i % 3) for i in range(len(words))),
        context="corpus",
        position=1,
        document_tokens=len(words),
    )
    given: dict[str, Any] = {
        "feature_id": feature_id,
        "coherence": 0.5,
        "quality_level": "fair",
        "category": "technical",
        "complexity": "low",
        "keywords": ("garden",),
        "top": (top,) * 4,
        "contrast": ("a silent text",),
        "judge": (),
        "statistics": {"frequency": 0.01, "histogram_counts": [5, 2, 1], "histogram_edges": [0.0, 1.0, 2.0, 3.0]},
    }
    return FeatureEvidence(**(given | changes))


def result_of(explanations: Sequence[Explanation]) -> ExplainResult:
    """What a run of these explanations came to."""
    return ExplainResult(
        source_find_job="find_1",
        total_features_processed=len(explanations),
        processing_time_seconds=1.5,
        summary_insights=summarise(explanations),
        engine="lexical",
    )


def book_of(explanations: Sequence[Explanation], text: str = "", **technical: Any) -> Book:
    """A run as reports show it."""
    there = {e.feature_id: evidence(e.feature_id, text) for e in explanations}
    return outputs.make_book("explain_1", result_of(explanations), explanations, there, TECHNICAL | technical)


class Explains:
    """Explain's and Find's RPCs on a server without a dispatcher, called by name."""

    def __init__(self, runtime: Runtime, channel: grpc.aio.Channel) -> None:
        self.runtime, self._channel = runtime, channel
        self.metadata = (("authorization", f"Bearer {runtime.home.token().reveal()}"),)

    def _rpc(self, name: str) -> tuple[Callable[..., Any], Any]:
        method = installed().methods[f"/mistudio.explain.v1.ExplainService/{name}"]
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = kind(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response_class.FromString,
        )
        return call, method.request_class

    async def call(self, name: str, **fields: Any) -> Any:
        """A unary call. Raises grpc.aio.AioRpcError."""
        rpc, request = self._rpc(name)
        return await rpc(request(**fields), metadata=self.metadata, timeout=30)

    def stream(self, name: str, **fields: Any) -> Any:
        """A stream of responses."""
        rpc, request = self._rpc(name)
        return rpc(request(**fields), metadata=self.metadata, timeout=60)

    async def export(self, job_id: str, form: int) -> bytes:
        """A downloaded form."""
        return b"".join([p.chunk.data async for p in self.stream("ExportExplanations", job_id=job_id, format=form)])

    async def run(self, explanations: Sequence[Explanation], find_job_id: str = "find_1", **technical: Any) -> str:
        """A completed run; its job id."""
        asked = explain_service_pb2.StartExplainRequest(find_job_id=find_job_id, engine="lexical")
        new = NewJob(service="explain", request=asked.SerializeToString(), model_name="toy")
        job, _ = await self.runtime.jobs.start(new)
        claim = await self.runtime.jobs.claim(job.job_id, "cpu:0")
        assert claim is not None
        await self.runtime.jobs.set_process(job.job_id, claim.job.attempt, os.getpid(), 0)
        lease = Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)
        context = LocalContext(self.runtime.home.root / "local", job_id=job.job_id)
        context.store = ArtifactStore(self.runtime.home.artifacts)
        result = result_of(explanations)
        there = {e.feature_id: evidence(e.feature_id) for e in explanations}
        outputs.write(context, result, explanations, there, TECHNICAL | technical)
        for record in context.artifacts:
            await self.runtime.worker_jobs.commit_artifact(lease, record)
        outcome = Outcome(result=convert.result_message(result).SerializeToString())
        await self.runtime.worker_jobs.finish(lease, outcome)
        return job.job_id


@contextlib.asynccontextmanager
async def serving_explains(home: Home) -> AsyncIterator[Explains]:
    """Serves Explain and Find on the home's socket."""
    runtime = await Runtime.open(home, services=["find", "explain"])
    server = grpc.aio.server(interceptors=[ContractInterceptor(installed(), home.token())])
    register(server, installed(), "mistudio.explain.v1.ExplainService", ExplainServicer(runtime))
    register(server, installed(), "mistudio.find.v1.FindService", FindServicer(runtime))
    bind(server, home.control_target, None)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(
            home.control_target, options=[("grpc.max_receive_message_length", 16 << 20)]
        ) as channel:
            yield Explains(runtime, channel)
    finally:
        await server.stop(1.0)
        await runtime.close()
