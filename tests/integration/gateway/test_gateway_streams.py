"""The two adapters: event streams, uploads and downloads over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from typing import Any

import httpx
import pytest
from gateway_backend import FILE, JOB, Backend, client_of

from gateway.download import disposition
from mistudio_core import errors

EVENTS = f"/api/v1/jobs/{JOB}/events"
REPORT = "/api/v1/artifacts//data/reports/report.html"


def parse(text: str) -> list[dict[str, Any]]:
    """Events of a stream, by the rules of the HTML standard."""
    found = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            found.append({name: json.loads(v) if name == "data" else v for name, _, v in lines})
    return found


async def test_events(http: httpx.AsyncClient) -> None:
    reply = await http.get(EVENTS)
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = parse(reply.text)
    assert [e.get("id") for e in found] == [None, "1", "2", "3"]
    assert [e["event"] for e in found] == ["snapshot", "log", "log", "log"]
    assert found[1]["data"]["log"] == {"level": "unspecified", "message": "line 1\nmore"}
    assert found[1]["data"]["sequence"] == 1


async def test_events_resume(http: httpx.AsyncClient, backend: Backend) -> None:
    found = parse((await http.get(f"{EVENTS}?after_sequence=1", headers={"last-event-id": "2"})).text)
    assert [e.get("id") for e in found] == [None, "3"] and backend.script.requests[-1].after_sequence == 2
    assert len(parse((await http.get(f"{EVENTS}?after_sequence=1")).text)) == 3
    for bad in ("x", "-1", "9" * 25):
        reply = await http.get(EVENTS, headers={"last-event-id": bad})
        assert (reply.status_code, reply.json()["problems"][0]["field"]) == (400, "last-event-id")


async def test_events_of_an_unknown_job_are_a_404(http: httpx.AsyncClient) -> None:
    reply = await http.get("/api/v1/jobs/train_x/events")
    assert (reply.status_code, reply.json()["reason"]) == (404, "JOB_NOT_FOUND")


async def test_error_in_mid_stream_is_an_event(start, backend: Backend) -> None:
    backend.script.endless = True
    async with client_of(gateway := await start()) as client, client.stream("GET", EVENTS) as reply:
        lines = reply.aiter_lines()
        while "event: log" not in await anext(lines):
            pass
        stopping = asyncio.create_task(gateway.stop())
        found = parse("\n".join([line async for line in lines]))
        await stopping
    assert found[-1]["event"] == "error" and found[-1]["data"]["reason"] == "UNAVAILABLE"


async def test_heartbeat_and_disconnect(start, backend: Backend) -> None:
    backend.script.endless = True
    gateway = await start(limits={"heartbeat_seconds": 0.1})
    async with client_of(gateway) as client, client.stream("GET", EVENTS) as reply:
        beats = 0
        async for line in reply.aiter_lines():
            beats += line.startswith(":")
            if beats == 2:
                break
    await asyncio.wait_for(backend.script.cancelled.wait(), 5)


async def test_gpu_events_have_no_id(http: httpx.AsyncClient) -> None:
    found = parse((await http.get("/gpu/events?interval_seconds=0.5")).text)
    assert [set(e) for e in found] == [{"data"}, {"data"}] and found[0]["data"] == {}


async def test_upload(http: httpx.AsyncClient, backend: Backend) -> None:
    data = FILE * 2
    reply = await http.post("/api/v1/upload", files={"file": ("customer_reviews.txt", data)})
    assert reply.status_code == 200
    assert {k: v for k, v in reply.json().items() if k not in ("source_sha256", "warnings")} == {
        "message": "File uploaded successfully",
        "filename": "customer_reviews.txt",
        "size_bytes": len(data),
        "lines_count": 10,
        "path": "/data/samples/customer_reviews.txt",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert [c.offset for c in backend.script.chunks] == [i * 2**20 for i in range(5)]


async def test_upload_holds_little_and_waits_for_the_service(start, backend: Backend) -> None:
    gateway = await start(limits={"chunk_bytes": 1000})
    async with client_of(gateway) as client:
        reply = await client.post("/api/v1/upload", files={"file": ("é ☃.txt", b"x" * 2500)})
    assert [c.offset for c in backend.script.chunks] == [0, 1000, 2000] and reply.json()["filename"] == "é ☃.txt"


async def test_empty_upload_reaches_the_service(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/v1/upload", files={"file": ("a.txt", b"")})).json()["size_bytes"] == 0


async def test_upload_fields_reach_the_header(http: httpx.AsyncClient, backend: Backend) -> None:
    fields = {"text_column": "body", "label_columns": ["topic", "tone"], "separator": "\n\n", "size_bytes": "6"}
    assert (await http.post("/api/v1/upload", data=fields, files={"file": ("a.jsonl", b"x" * 6)})).status_code == 200
    header = backend.script.header
    assert (header.filename, header.text_column, header.separator, header.size_bytes) == ("a.jsonl", "body", "\n\n", 6)
    assert list(header.label_columns) == ["topic", "tone"]
    for bad, words in (({"text_colum": "x"}, "text_column"), ({"size_bytes": "many"}, "integer")):
        reply = await http.post("/api/v1/upload", data=bad, files={"file": ("a.jsonl", b"x")})
        assert reply.status_code == 400
        assert words in reply.text
    two = {"name": ["a", "b"]}
    assert (await http.post("/api/v1/upload", data=two, files={"file": ("a", b"x")})).status_code == 400


async def test_an_upload_field_after_the_file_is_refused(http: httpx.AsyncClient) -> None:
    body = part('form-data; name="file"; filename="a"', end="") + part('form-data; name="name"')
    reply = await http.post("/api/v1/upload", content=body, headers={"content-type": "multipart/form-data; boundary=B"})
    assert reply.status_code == 400
    assert "before the part 'file'" in reply.json()["detail"]


async def test_upload_refused_by_the_service(http: httpx.AsyncClient) -> None:
    for _ in range(20):
        reply = await http.post("/api/v1/upload", files={"file": ("../../etc/passwd", FILE)})
        assert (reply.status_code, reply.json()["reason"]) == (400, "BAD_FILE_NAME")
    reply = await http.post("/api/v1/upload", files={"file": ("a", FILE)}, headers={"authorization": ""})
    assert (reply.status_code, reply.json()["reason"]) == (401, "TOKEN_MISSING")


def part(disposition: str, data: str = "x", end: str = "--B--\r\n") -> bytes:
    return f"--B\r\nContent-Disposition: {disposition}\r\n\r\n{data}\r\n{end}".encode()


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b"{}", "application/json", "content-type"),
        (b"x", "multipart/form-data", "content-type"),
        (b"", "multipart/form-data; boundary=B", "file"),
        (b"garbage", "multipart/form-data; boundary=B", "body"),
        (part('form-data; name="other"'), "multipart/form-data; boundary=B", "other"),
        (part('form-data; name="file"'), "multipart/form-data; boundary=B", "file"),
        (part('form-data; name="file"; filename="a"', end=""), "multipart/form-data; boundary=B", "body"),
        (
            part('form-data; name="file"; filename="a"', end="") + part('form-data; name="file"; filename="b"'),
            "multipart/form-data; boundary=B",
            "file",
        ),
        (part('form-data; name="file"; filename="' + "a" * 9000 + '"'), "multipart/form-data; boundary=B", "body"),
    ],
)
async def test_bad_multipart(http: httpx.AsyncClient, backend: Backend, body: bytes, kind: str, field: str) -> None:
    reply = await http.post("/api/v1/upload", content=body, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["problems"][0]["field"]) == (400, field)


async def test_upload_limit(start) -> None:
    async with client_of(await start(limits={"upload_bytes": 500})) as client:
        fits = await client.post("/api/v1/upload", files={"file": ("a", b"x" * 100)})
        assert fits.status_code == 200
        for content in (b"x" * 501, _slowly(b"x" * 501)):
            headers = {"content-type": "multipart/form-data; boundary=B"}
            reply = await client.post("/api/v1/upload", content=content, headers=headers)
            assert reply.status_code in {400, 413}


async def _slowly(data: bytes):
    yield data


async def test_a_stalled_upload_ends(start, backend: Backend) -> None:
    async def stalls():
        yield part('form-data; name="file"; filename="a"', end="")
        await asyncio.sleep(1.5)

    async with client_of(await start(limits={"idle_seconds": 0.3})) as client:
        headers = {"content-type": "multipart/form-data; boundary=B"}
        reply = await client.post("/api/v1/upload", content=stalls(), headers=headers)
    assert (reply.status_code, reply.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
    await asyncio.wait_for(backend.script.cancelled.wait(), 5)


async def test_download(http: httpx.AsyncClient) -> None:
    for path in (REPORT, REPORT.replace("//data", "/%2Fdata"), REPORT.replace("//data", "/data")):
        reply = await http.get(path, headers={"accept-encoding": "identity"})
        assert reply.status_code == 200 and reply.content == FILE
    assert reply.headers["content-type"] == "text/html"
    assert reply.headers["content-disposition"].startswith('attachment; filename="report.html"')
    assert "sandbox; default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["etag"] == f'"{hashlib.sha256(FILE).hexdigest()}"'
    missing = await http.get("/api/v1/artifacts/data/x")
    assert (missing.status_code, missing.json()["reason"]) == (404, "ARTIFACT_NOT_FOUND")


async def test_download_goes_on(http: httpx.AsyncClient) -> None:
    at = 2**20 + 5
    reply = await http.get(REPORT, headers={"range": f"bytes={at}-"})
    assert reply.status_code == 206 and reply.content == FILE[at:]
    assert reply.headers["content-range"] == f"bytes {at}-{len(FILE) - 1}/{len(FILE)}"
    assert (await http.get(REPORT, headers={"range": "bytes=0-5"})).status_code == 200
    beyond = await http.get(REPORT, headers={"range": f"bytes={len(FILE)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(FILE)}"


async def test_a_whole_text_travels_compressed_to_who_asks(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", REPORT, headers={"accept-encoding": "gzip"}) as reply:
        raw = b"".join([part async for part in reply.aiter_raw()])
    assert gzip.decompress(raw) == FILE and len(raw) < len(FILE) / 10
    assert reply.headers["content-encoding"] == "gzip" and "content-length" not in reply.headers
    assert reply.headers["etag"] == f'"{hashlib.sha256(FILE).hexdigest()}-gzip"'
    assert (reply.headers["accept-ranges"], reply.headers["vary"]) == ("none", "Accept-Encoding")
    for refused in ("identity", "gzip;q=0", "gzip; q=0.0, br", "x-gzip", ""):
        plain = await http.get(REPORT, headers={"accept-encoding": refused})
        assert "content-encoding" not in plain.headers and plain.content == FILE
        assert plain.headers["vary"] == "Accept-Encoding"
    part = await http.get(REPORT, headers={"accept-encoding": "gzip", "range": "bytes=5-"})
    assert part.status_code == 206 and "content-encoding" not in part.headers and part.content == FILE[5:]


async def test_a_broken_compressed_download_has_no_end(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.artifacts.break_after = 2**20
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await http.get(REPORT, headers={"accept-encoding": "gzip"})


async def test_a_broken_download_breaks_the_connection(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.artifacts.break_after = 2**20
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(REPORT)


def test_file_names_are_inert() -> None:
    shown = disposition('../"évil\r\n.html')
    assert not set("\r\n/\\") & set(shown) and shown.count('"') == 2
    assert disposition("") == disposition("..") == "attachment; filename=\"download\"; filename*=UTF-8''download"


async def test_error_after_the_last_event(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.script.error = errors.Unavailable("no")
    reply = await http.get(EVENTS)
    assert (reply.status_code, reply.json()["reason"]) == (503, "UNAVAILABLE")
