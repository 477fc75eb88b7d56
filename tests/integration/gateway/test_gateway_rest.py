"""HTTP/JSON: names, numbers, paths, errors and limits as published."""

from __future__ import annotations

import json

import httpx
import pytest
from gateway_backend import JOB, TOKEN, Backend, client_of
from mistudio.feature.v1 import sae_pb2

from mistudio_core import errors

# copied from the published API
PUBLISHED_START = {
    "model_name": "microsoft/Phi-4",
    "corpus_file": "customer_reviews.txt",
    "layer_number": 16,
    "huggingface_token": "hf_optional_token",
    "hidden_dim": 1024,
    "sparsity_coeff": 0.001,
    "learning_rate": 0.0001,
    "batch_size": 8,
    "max_epochs": 50,
    "min_loss": 0.01,
    "gpu_id": None,
    "max_sequence_length": 512,
}
PUBLISHED_START_REPLY = {
    "job_id": str,
    "status": "queued",
    "message": "Training job started for microsoft/Phi-4",
    "model_name": "microsoft/Phi-4",
    "requires_token": False,
    "memory_check": "passed",
    "optimizations_applied": str,
}


async def test_published_start(http: httpx.AsyncClient, backend: Backend) -> None:
    reply = await http.post("/api/v1/train", json=PUBLISHED_START)
    assert reply.status_code == 200
    body = reply.json()
    assert body.keys() == PUBLISHED_START_REPLY.keys()
    for name, expected in PUBLISHED_START_REPLY.items():
        assert isinstance(body[name], str) if expected is str else body[name] == expected
    sent = backend.script.requests[-1]
    assert sent.layer_number == 16 and sent.learning_rate == 0.0001 and not sent.HasField("gpu_id")
    assert not sent.HasField("k") and sent.architecture == sae_pb2.ARCHITECTURE_UNSPECIFIED


async def test_published_health_is_open(http: httpx.AsyncClient) -> None:
    reply = await http.get("/health", headers={"authorization": ""})
    assert reply.json() == {
        "service": "miStudioTrain",
        "status": "healthy",
        "version": "1.2.0",
        "gpu_available": True,
        "gpu_count": 1,
        "memory_status": {"gpu_0": {"free_gb": 22.1, "total_gb": 24.0}},
        "queue_depth": 0,
        "free_slots": 0,
    }
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_numbers_absent_fields_and_times(http: httpx.AsyncClient) -> None:
    status = (await http.get(f"/api/v1/train/{JOB}/status")).json()
    assert status["status"] == "running" and status["current_epoch"] == 0 and status["message"] == ""
    assert not {"estimated_time_remaining", "model_info", "last_checkpoint", "error"} & status.keys()
    gpu = (await http.get("/gpu/status")).json()
    assert gpu["gpus"]["0"]["memory_total"] == 25757220864 and gpu["current_device"] == 0
    result = (await http.get(f"/api/v1/train/{JOB}/result")).json()
    assert result["training_stats"]["tokens"] == 2**53 + 1 and result["checkpoints"] == []
    job = (await http.get(f"/api/v1/jobs/{JOB}")).json()
    assert job["created_at"] == "2025-07-25T22:49:18Z" and "completed_at" not in job and "job" not in job


@pytest.mark.parametrize("path", ["microsoft%2FPhi-4", "microsoft/Phi-4"])
async def test_encoded_slash(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.get(f"/api/v1/check-memory/{path}")
    assert reply.json()["model_name"] == "microsoft/Phi-4"
    assert reply.json()["gpu_compatibility"]["gpu_0"]["compatible"] is True


async def test_query(http: httpx.AsyncClient, backend: Backend) -> None:
    await http.get("/api/v1/jobs?service=train&page_size=5&status=running")
    sent = backend.script.requests[-1]
    assert (sent.service, sent.page_size, sent.status) == ("train", 5, 2)
    await http.get("/api/v1/jobs?status=JOB_STATUS_FAILED")
    assert backend.script.requests[-1].status == 5


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("pagesize=5", "UNKNOWN_FIELD", "pagesize"),
        ("page_size=five", "INVALID_FIELD", "page_size"),
        ("page_size=1&page_size=2", "INVALID_FIELD", "page_size"),
        ("page_size=5000000000", "INVALID_FIELD", "page_size"),
        ("status=running%00", "INVALID_FIELD", "status"),
    ],
)
async def test_bad_query(http: httpx.AsyncClient, query: str, reason: str, field: str) -> None:
    reply = await http.get(f"/api/v1/jobs?{query}")
    assert (reply.status_code, reply.json()["reason"]) == (400, reason)
    assert reply.json()["problems"][0]["field"] == field


BASE = {"model_name": "m", "corpus_file": "c"}


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        ('{"hiden_dim": 5}', "UNKNOWN_FIELD", "Did you mean hidden_dim?"),
        ('{"hidden_dim": "5"}', "INVALID_FIELD", "hidden_dim: '5'"),
        ('{"hidden_dim": 1.5}', "INVALID_FIELD", "an integer"),
        ('{"hidden_dim": true}', "INVALID_FIELD", "hidden_dim: true"),
        ('{"hidden_dim": 3000000000}', "INVALID_FIELD", "an integer from -2147483648"),
        ('{"learning_rate": NaN}', "INVALID_FIELD", "NaN is not a JSON number"),
        ('{"learning_rate": -Infinity}', "INVALID_FIELD", "Infinity is not a JSON number"),
        ('{"learning_rate": 1e999}', "INVALID_FIELD", "a finite number"),
        ('{"model_name": 5}', "INVALID_FIELD", "a string"),
        ('{"model_name": "\\ud800"}', "INVALID_FIELD", "Unicode"),
        ('{"architecture": "quantum"}', "INVALID_FIELD", "standard, topk"),
        ('{"sweep": {"layers": [1, "x"]}}', "INVALID_FIELD", "sweep.layers[1]: 'x'"),
        ('{"sweep": {"layers": 1}}', "INVALID_FIELD", "a JSON array"),
        ('{"seed": 1, "seed": 2}', "INVALID_FIELD", "stands twice"),
        ("[]", "INVALID_FIELD", "a JSON object"),
        ("{", "INVALID_FIELD", "one JSON object"),
        ('{"seed": ' + "9" * 5000 + "}", "INVALID_FIELD", "one JSON object"),
        ('{"huggingface_token": 12345}', "INVALID_FIELD", "***"),
    ],
)
async def test_bad_body(http: httpx.AsyncClient, body: str, reason: str, text: str) -> None:
    reply = await http.post("/api/v1/train", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["reason"], reply.json()["code"]) == (400, reason, "INVALID_ARGUMENT")
    assert text in reply.json()["detail"]
    assert "12345" not in reply.text


async def test_null_and_both_enum_names(http: httpx.AsyncClient, backend: Backend) -> None:
    for name in ("topk", "ARCHITECTURE_TOPK"):
        reply = await http.post("/api/v1/train", json={**BASE, "architecture": name, "sweep": None, "seed": 2.0})
        assert reply.status_code == 200
        sent = backend.script.requests[-1]
        assert sent.architecture == sae_pb2.ARCHITECTURE_TOPK and not sent.HasField("sweep") and sent.seed == 2


@pytest.mark.parametrize(
    ("depth", "reason"), [(64, "UNKNOWN_FIELD"), (65, "INVALID_FIELD"), (100_000, "INVALID_FIELD")]
)
async def test_depth(http: httpx.AsyncClient, depth: int, reason: str) -> None:
    body = '{"x":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
    reply = await http.post("/api/v1/train", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["reason"]) == (400, reason)


async def test_brackets_in_strings_are_not_depth(http: httpx.AsyncClient) -> None:
    reply = await http.post("/api/v1/train", json={**BASE, "model_name": '\\"' + "[{" * 100})
    assert reply.status_code == 200


@pytest.mark.parametrize(("size", "code"), [(4 * 2**20 - 1, 400), (4 * 2**20, 400), (4 * 2**20 + 1, 413)])
async def test_body_limit(http: httpx.AsyncClient, size: int, code: int) -> None:
    body = b'{"x":"' + b"a" * (size - 8) + b'"}'
    assert len(body) == size
    for content in (body, _chunked(body)):
        reply = await http.post("/api/v1/train", content=content, headers={"content-type": "application/json"})
        assert reply.status_code == code
        assert reply.json()["reason"] == ("TOO_LARGE" if code == 413 else "UNKNOWN_FIELD")


async def _chunked(body: bytes):
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]


async def test_content_type_and_encoding(http: httpx.AsyncClient, backend: Backend) -> None:
    text = json.dumps(BASE)
    form = await http.post("/api/v1/train", content=text, headers={"content-type": "text/plain"})
    assert (form.status_code, form.json()["problems"][0]["field"]) == (400, "content-type")
    packed = await http.post(
        "/api/v1/train", content=text, headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert (packed.status_code, packed.json()["problems"][0]["field"]) == (400, "content-encoding")
    body = await http.request("GET", f"/api/v1/jobs/{JOB}", content=text)
    assert (body.status_code, body.json()["reason"]) == (400, "INVALID_FIELD")
    assert not backend.script.requests


async def test_cancel_with_and_without_body(http: httpx.AsyncClient, backend: Backend) -> None:
    path = f"/api/v1/jobs/{JOB}/cancel"
    assert (await http.post(path)).json()["cancel_requested"] is True
    await http.post(path, json={"etag": "abc"})
    assert backend.script.requests[-1].etag == "abc" and backend.script.requests[-1].job_id == JOB
    twice = await http.post(path, json={"job_id": JOB})
    assert (twice.status_code, twice.json()["problems"][0]["field"]) == (400, "job_id")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("no"), 404),
        (errors.NotReady("no"), 409),
        (errors.Forbidden("no"), 403),
        (errors.DiskFull("no"), 429),
        (errors.LimitReached("no", reason="TOO_LARGE"), 413),
        (errors.Unsupported("k", why="standard", instead="Leave it out."), 400),
        (errors.Unavailable("no"), 503),
        (errors.DeadlineExceeded("no"), 504),
        (errors.Failed("CUDA out of memory.", reason="OUT_OF_MEMORY"), 500),
    ],
)
async def test_errors(http: httpx.AsyncClient, backend: Backend, error: errors.MistudioError, code: int) -> None:
    backend.script.error = error
    reply = await http.get("/api/v1/jobs")
    assert (reply.status_code, reply.json()["reason"], reply.json()["detail"]) == (code, error.reason, error.message)
    assert reply.json()["metadata"] == error.facts


async def test_an_unforeseen_error_is_an_id(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.script.error = ValueError("secret detail /root/x")
    reply = await http.get("/api/v1/jobs")
    assert (reply.status_code, reply.json()["reason"]) == (500, "INTERNAL")
    assert reply.json()["metadata"]["id"] in reply.json()["detail"] and "secret" not in reply.text


async def test_unreachable_backend(start) -> None:
    async with client_of(await start(target="127.0.0.1:1")) as client:
        reply = await client.get("/health")
        assert (reply.status_code, reply.json()["reason"]) == (503, "UNAVAILABLE")
        assert "mistudio up" in reply.json()["detail"]


async def test_routes(http: httpx.AsyncClient) -> None:
    for path in ("/nope", "/api/v1/train/", "/API/v1/jobs", "/api/v1//jobs", "/", "/api/v1/%6aobs", "/health/"):
        reply = await http.get(path)
        assert (reply.status_code, reply.json()["reason"]) == (404, "ROUTE_NOT_FOUND"), path
    wrong = await http.put("/api/v1/train")
    assert (wrong.status_code, wrong.headers["allow"], wrong.json()["reason"]) == (405, "POST", "ROUTE_NOT_FOUND")
    worker = await http.post("/mistudio.worker.v1.WorkerService/Finish")
    assert worker.status_code == 404


async def test_token_is_the_services_matter(http: httpx.AsyncClient, backend: Backend) -> None:
    for headers, reason in (({"authorization": ""}, "TOKEN_MISSING"), ({"authorization": "Bearer x"}, "TOKEN_INVALID")):
        reply = await http.get("/api/v1/jobs", headers=headers)
        assert (reply.status_code, reply.json()["reason"]) == (401, reason)
        assert reply.headers["www-authenticate"].startswith("Bearer")
    doubled = httpx.Headers([("authorization", TOKEN), ("authorization", "Bearer other")])
    assert (await http.get("/api/v1/jobs", headers=doubled)).status_code == 400


async def test_only_listed_headers_travel(http: httpx.AsyncClient, backend: Backend) -> None:
    spoofed = {"x-user": "root", "x-tenant": "t", "grpc-metadata-x-user": "r", "x-forwarded-for": "1", "x-a-bin": "YQ"}
    await http.get("/api/v1/jobs", headers={**spoofed, "x-request-id": "r1", "traceparent": "00-a-b-01"})
    metadata = {k: v for k, v in backend.script.metadata.items() if k != "user-agent"}
    assert metadata == {"authorization": TOKEN, "x-request-id": "r1", "traceparent": "00-a-b-01"}
    assert 100 < (backend.script.time_remaining or 0) < 121
