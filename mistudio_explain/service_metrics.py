"""The four Prometheus metrics of Explain: counted when a run completes, from what its worker recorded.

Labels are those of the published names: model_name everywhere, gpu_device beside it for memory. Engines
of a run with no model of their own count under the engine's name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from mistudio_core.errors import MistudioError
from mistudio_core.jobs.records import COMPLETED
from mistudio_explain.engines.roster import Roster
from mistudio_explain.table import ExplanationTable, Record
from mistudio_rpc.metrics import PART, Metrics
from mistudio_rpc.runtime import Runtime

log = logging.getLogger("mistudio.explain.metrics")
SERVICE, ENGINES = "explain", "explain.engines"
_SECONDS = (0.005, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_QUALITY = tuple(i / 20 for i in range(1, 20))


class ExplainMetrics:
    """Counts explanations."""

    def __init__(self, metrics: Metrics) -> None:
        """Registers the metrics."""
        from prometheus_client import Counter, Gauge, Histogram

        registry, model = metrics.registry, ["model_name"]
        self._requests = Counter(
            "mistudio_explain_model_requests_total",
            "Explanations that a model was asked for, repeated attempts included.",
            model,
            registry=registry,
        )
        self._seconds = Histogram(
            "mistudio_explain_duration_seconds",
            "Seconds from asking for an explanation to the whole answer.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._memory = Gauge(
            "mistudio_explain_gpu_memory_bytes",
            "Bytes of GPU memory that a managed engine process holds.",
            ["gpu_device", "model_name"],
            registry=registry,
        )
        self._quality = Histogram(
            "mistudio_explain_quality_score",
            "Quality of explanations, 0 to 1.",
            model,
            buckets=_QUALITY,
            registry=registry,
        )

    def count(self, record: Record) -> None:
        """Counts an explanation; what the cache gave asked no model."""
        model = str(record["model"] or record["engine"])
        if not record["cached"]:
            self._requests.labels(model).inc(max(1, int(record["attempts"])))
            self._seconds.labels(model).observe(float(record["latency_seconds"]))
        if not record["failure"]:
            self._quality.labels(model).observe(float(record["explanation_quality"]))

    async def read_memory(self, roster: Roster) -> None:
        """Reads what managed engines hold now; what ended is no longer told."""
        self._memory.clear()
        for status in await roster.all():
            for process in status.processes:
                if process.device.startswith("cuda") and process.memory_bytes:
                    self._memory.labels(process.device, process.model).set(process.memory_bytes)


@asynccontextmanager
async def counted(runtime: Runtime) -> AsyncIterator[None]:
    """Counts the runs that complete meanwhile, where the process tells metrics; else does nothing."""
    metrics = runtime.parts.get(PART)
    if not isinstance(metrics, Metrics):
        yield
        return
    counts, tasks = ExplainMetrics(metrics), set[asyncio.Task[None]]()

    def finished(job_id: str) -> None:
        task = asyncio.create_task(_count_run(runtime, counts, job_id), name=f"metrics {job_id}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def refresh() -> None:
        if ENGINES in runtime.parts:
            await counts.read_memory(cast(Roster, runtime.parts[ENGINES]))

    runtime.on_finished.append(finished)
    metrics.refresh.append(refresh)
    try:
        yield
    finally:
        runtime.on_finished.remove(finished)
        metrics.refresh.remove(refresh)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _count_run(runtime: Runtime, counts: ExplainMetrics, job_id: str) -> None:
    """Counts a run of ours that completed; what cannot be read is told in the log."""
    try:
        job = await runtime.queries.get(job_id)
        if job.service != SERVICE or job.status != COMPLETED:
            return
        reader = await runtime.open_artifact(job_id, "explanations")
        records = await asyncio.to_thread(lambda: list(ExplanationTable.of(reader).records()))
    except MistudioError as error:
        log.warning("%s is not counted: %s", job_id, error)
        return
    for record in records:
        counts.count(record)
