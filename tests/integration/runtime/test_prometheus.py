"""The listener that tells Prometheus: what is counted, who may ask, what is refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mistudio_core.errors import InvalidInput
from mistudio_core.home import Home
from mistudio_explain.engines.roster import Roster
from mistudio_explain.service_metrics import ExplainMetrics, counted
from mistudio_rpc.metrics import PART, Metrics, MetricsListener
from mistudio_rpc.server import ControlServer, ServerConfig, running
from tests.integration.runtime.test_tls import Certificates
from tests.support.explains import Explains, explanation, serving_explains


async def asked(port: int, request: str, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """(status, body) of a raw request."""
    host = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host)
    writer.write(request.replace("\n", "\r\n").encode())
    data = (await reader.read()).decode()
    writer.close()
    head, _, body = data.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


@pytest.fixture
async def explains(home) -> AsyncIterator[Explains]:
    async with serving_explains(home) as served:
        yield served


async def test_a_completed_run_is_counted(explains: Explains):
    metrics = Metrics()
    explains.runtime.parts[PART] = metrics
    listener = MetricsListener("127.0.0.1:0", metrics, tls=None, token=explains.runtime.home.token())
    await listener.start()
    async with counted(explains.runtime):
        given = [
            explanation(0, model="m", attempts=3, latency_seconds=0.2),
            explanation(1, model="m", cached=True),
            explanation(2, model="m", failure="no answer", explanation="", latency_seconds=1.0),
        ]
        await explains.run(given)
        await asyncio.sleep(0)
    status, text = await asked(listener.port, "GET /metrics HTTP/1.1\nHost: x\n\n")
    await listener.stop()
    assert status == 200
    samples = {
        (s.name, s.labels.get("model_name")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if "le" not in s.labels
    }
    assert samples["mistudio_explain_model_requests_total", "m"] == 4
    assert samples["mistudio_explain_duration_seconds_count", "m"] == 2
    assert samples["mistudio_explain_duration_seconds_sum", "m"] == pytest.approx(1.2)
    assert samples["mistudio_explain_quality_score_count", "m"] == 2


async def test_memory_is_that_of_processes_on_gpus():
    metrics = Metrics()
    counts = ExplainMetrics(metrics)
    process = SimpleNamespace(device="cuda:1", model="m", memory_bytes=7)
    cores = SimpleNamespace(device="cpu:0-3", model="m", memory_bytes=9)

    async def statuses() -> list[SimpleNamespace]:
        return [SimpleNamespace(processes=processes)]

    processes = (process, cores)
    roster = cast(Roster, SimpleNamespace(all=statuses))
    await counts.read_memory(roster)
    labels = {"gpu_device": "cuda:1", "model_name": "m"}
    name = "mistudio_explain_gpu_memory_bytes"
    assert metrics.registry.get_sample_value(name, labels) == 7
    processes = ()
    await counts.read_memory(roster)
    assert metrics.registry.get_sample_value(name, labels) is None


async def test_there_is_one_page_and_it_is_only_read(home: Home):
    listener = MetricsListener("127.0.0.1:0", Metrics(), tls=None, token=home.token())
    await listener.start()
    for request, status in {
        "GET /metrics HTTP/1.1\n\n": 200,
        "HEAD /metrics?x=1 HTTP/1.1\n\n": 200,
        "GET /other HTTP/1.1\n\n": 404,
        "POST /metrics HTTP/1.1\n\n": 405,
        "rubbish\n\n": 400,
    }.items():
        assert (await asked(listener.port, request))[0] == status, request
    await listener.stop()


async def test_an_open_address_needs_tls_and_the_token(home: Home, tmp_path):
    certificates = Certificates(tmp_path)
    with pytest.raises(InvalidInput, match="metrics-address"):
        ControlServer(ServerConfig(home=home, metrics_address="0.0.0.0:0"), [])
    tls = certificates.tls("server", authority=False)
    listener = MetricsListener("0.0.0.0:0", Metrics(), tls=tls, token=home.token())
    await listener.start()
    context = ssl.create_default_context(cafile=str(certificates.authority))
    assert (await asked(listener.port, "GET /metrics HTTP/1.1\n\n", context))[0] == 401
    shown = f"GET /metrics HTTP/1.1\nAuthorization: Bearer {home.token().reveal()}\n\n"
    assert (await asked(listener.port, shown, context))[0] == 200
    wrong = "GET /metrics HTTP/1.1\nAuthorization: Bearer x\n\n"
    assert (await asked(listener.port, wrong, context))[0] == 401
    await listener.stop()


async def test_a_control_process_tells_and_a_taken_address_is_refused(home: Home, tmp_path):
    listener = MetricsListener("127.0.0.1:0", Metrics(), tls=None, token=home.token())
    await listener.start()
    with pytest.raises(InvalidInput, match="free"):
        await MetricsListener(f"127.0.0.1:{listener.port}", Metrics(), tls=None, token=home.token()).start()
    await listener.stop()
    async with running(ServerConfig(home=home, metrics_address=f"127.0.0.1:{listener.port}"), []):
        assert (await asked(listener.port, "GET /metrics HTTP/1.1\n\n"))[0] == 200
