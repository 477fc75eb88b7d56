"""Bad input: a reason code for programs, a sentence for people, nothing lost.

Hub errors come from a hub server on this machine (`HF_ENDPOINT`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GATED_TOKEN, Pipeline

BODY = {
    "model_name": "tiny",
    "corpus_file": "small.txt",
    "layer_number": 1,
    "hidden_dim": 64,
    "max_epochs": 2,
    "max_sequence_length": 16,
}


def refused(reply: httpx.Response, status: int, reason: str, *words: str) -> dict[str, Any]:
    body = reply.json()
    assert (reply.status_code, body.get("reason")) == (status, reason), body
    for word in words:
        assert word in body["detail"], body["detail"]
    return body


def start(pipeline: Pipeline, **fields: Any) -> httpx.Response:
    return pipeline.http.post("/api/v1/train", json={**BODY, **fields})


def upload(pipeline: Pipeline, name: str, data: bytes) -> httpx.Response:
    return pipeline.http.post("/api/v1/upload", files={"file": (name, data)}, timeout=120)


def staged(pipeline: Pipeline) -> list[Path]:
    return list(pipeline.home.artifacts.glob("staging/*"))


def test_an_unknown_model(pipeline: Pipeline):
    refused(start(pipeline, model_name="nobody/nothing"), 404, "MODEL_NOT_FOUND", "nobody/nothing")


def test_a_gated_model_without_a_token(pipeline: Pipeline):
    refused(start(pipeline, model_name="a/gated"), 403, "MODEL_GATED", "huggingface_token")
    reply = pipeline.http.post("/api/v1/validate-model", json={"model_name": "a/gated"}).json()
    assert (reply["valid"], reply["requires_token"], reply["reason"]) == (False, True, "MODEL_GATED")


def test_a_gated_model_with_a_token_trains_and_the_token_stays_nowhere(pipeline: Pipeline):
    reply = start(pipeline, model_name="a/gated", huggingface_token=GATED_TOKEN)
    assert reply.status_code == 200, reply.text
    assert reply.json()["requires_token"] is True
    last = list(pipeline.client.watch(reply.json()["job_id"]))[-1]
    assert last.finished.status == 4, last
    needle = GATED_TOKEN.encode()
    left = [p for p in pipeline.home.root.rglob("*") if p.is_file() and needle in p.read_bytes()]
    assert left == []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert needle not in (process / "cmdline").read_bytes()
            if process.name != str(os.getpid()):
                assert needle not in (process / "environ").read_bytes()


def test_a_wrong_token_is_refused_and_not_echoed(pipeline: Pipeline):
    body = refused(start(pipeline, model_name="a/gated", huggingface_token="hf_wrong_canary"), 403, "MODEL_GATED")
    assert "canary" not in json.dumps(body)


def test_a_layer_out_of_range_names_the_range(pipeline: Pipeline):
    refused(start(pipeline, layer_number=12), 400, "LAYER_OUT_OF_RANGE", "0..2", "3 blocks")


def test_a_pickle_only_model(pipeline: Pipeline):
    refused(start(pipeline, model_name="pickled"), 400, "MODEL_UNSAFE_FORMAT", "safetensors")
    refused(start(pipeline, model_name="a/pickled"), 400, "MODEL_UNSAFE_FORMAT", "safetensors")


@pytest.mark.parametrize("name", ["../tiny", "/etc", "tiny/../../secrets", "package:os/x"])
def test_a_model_name_that_leads_elsewhere(pipeline: Pipeline, name: str):
    reply = start(pipeline, model_name=name)
    assert reply.status_code in (400, 404), reply.text
    assert str(pipeline.home.root) not in reply.text


def test_a_missing_corpus(pipeline: Pipeline):
    refused(
        start(pipeline, corpus_file="nonexistent.txt"), 400, "CORPUS_NOT_FOUND", "'nonexistent.txt' not found", "upload"
    )


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "CORPUS_EMPTY", "no text"),
        (b"\n \n\t\n", "CORPUS_EMPTY", "no text"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)), "CORPUS_BINARY", "not text"),
        (b"one\ntwo\x00three\n", "CORPUS_BINARY", "not text"),
        (b"fine\n" + "caf\u00e9".encode("latin-1") + b"\n", "CORPUS_NOT_UTF8", "Line 2"),
        (b"fine\ntorn \xe2\x82", "CORPUS_NOT_UTF8", "UTF-8"),
    ],
)
def test_a_corpus_that_is_no_text(pipeline: Pipeline, data: bytes, reason: str, words: str):
    refused(upload(pipeline, "bad.txt", data), 400, reason, words)
    assert staged(pipeline) == []


def test_one_line_of_100_mb(pipeline: Pipeline):
    class Endless:
        """100 MB without a line end, made as it is read."""

        left = 100_000_000

        def read(self, size: int = -1) -> bytes:
            size = min(self.left, size if size > 0 else 65536, 65536)
            self.left -= size
            return b"a" * size

    reply = pipeline.http.post("/api/v1/upload", files={"file": ("long.txt", Endless())}, timeout=120)
    refused(reply, 400, "CORPUS_LINE_TOO_LONG", "Line 1", "1 MiB")
    assert staged(pipeline) == []


@pytest.mark.parametrize(
    "name", ["../evil.txt", "..\\evil.txt", "/etc/passwd", "a/b.txt", "%2e%2e.txt", "con.txt", "x" * 300]
)
def test_a_file_name_that_is_a_path(pipeline: Pipeline, name: str):
    from mistudio.train.v1 import train_service_pb2

    from mistudio_core.errors import MistudioError

    with pytest.raises(MistudioError) as caught:
        header = train_service_pb2.UploadHeader(filename=name)
        pipeline.client.train.UploadCorpus(iter([train_service_pb2.UploadCorpusRequest(header=header)]))
    assert caught.value.reason in ("BAD_FILE_NAME", "INVALID_FIELD")


def test_a_corpus_without_its_column_or_of_another_form_says_what_to_do(pipeline: Pipeline):
    refused(upload(pipeline, "docs.jsonl", b'{"a": 1}\n'), 400, "CORPUS_COLUMN_MISSING", "'text'", "columns are: a")
    refused(upload(pipeline, "docs.csv", b"a,b\n"), 400, "UNSUPPORTED", "JSONL or Parquet")


def test_width_zero(pipeline: Pipeline):
    body = refused(start(pipeline, hidden_dim=0), 400, "INVALID_FIELD", "hidden_dim", "8")
    assert body["metadata"]["field"] == "hidden_dim"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1"])
def test_a_learning_rate_that_is_no_number(pipeline: Pipeline, value: str):
    text = json.dumps({**BODY, "learning_rate": 1}).replace('"learning_rate": 1', f'"learning_rate": {value}')
    headers = {"Content-Type": "application/json"}
    reply = pipeline.http.post("/api/v1/train", content=text, headers=headers)
    assert reply.status_code == 400
    assert "learning_rate" in reply.text or "NaN" in reply.text or "Infinity" in reply.text


def test_an_unknown_field_names_its_neighbours(pipeline: Pipeline):
    refused(start(pipeline, learning_rat=0.1), 400, "UNKNOWN_FIELD", "learning_rat", "learning_rate")


def test_a_wrong_type(pipeline: Pipeline):
    refused(start(pipeline, hidden_dim="wide"), 400, "INVALID_FIELD", "hidden_dim")


def test_a_field_of_a_later_release(pipeline: Pipeline):
    refused(start(pipeline, auto_layer=True, layer_number=1), 400, "INVALID_FIELD", "auto_layer", "Leave them out")
    refused(start(pipeline, cache_activations=True, processes=2), 400, "UNSUPPORTED", "cache_activations")


def test_k_wider_than_the_sae(pipeline: Pipeline):
    refused(start(pipeline, architecture="topk", hidden_dim=64, k=65), 400, "INVALID_FIELD", "k", "64")


def test_a_body_over_the_limit(pipeline: Pipeline):
    refused(start(pipeline, corpus_file="x" * 5_000_000), 413, "TOO_LARGE")


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs/{}", "/api/v1/train/{}/status", "/api/v1/train/{}/result", "/api/v1/jobs/{}/events"]
)
@pytest.mark.parametrize("job_id", ["train_invalid_job_id", "train_20250101_000000_00000000"])
def test_an_unknown_job(pipeline: Pipeline, path: str, job_id: str):
    refused(pipeline.http.get(path.format(job_id)), 404, "JOB_NOT_FOUND", f"Job {job_id} not found")


def test_a_gpu_that_is_not_there(pipeline: Pipeline):
    refused(start(pipeline, gpu_id=900), 400, "GPU_NOT_FOUND", "gpu_id", "900")


def test_more_gpu_memory_than_there_is(pipeline: Pipeline):
    refused(start(pipeline, min_gpu_memory_gb=9999), 429, "INSUFFICIENT_MEMORY", "9999", "min_gpu_memory_gb")


def test_find_on_an_unfinished_job(pipeline: Pipeline):
    job_id = start(pipeline, max_epochs=10_000, hidden_dim=512, min_loss=0).json()["job_id"]
    reply = pipeline.http.post("/api/v1/find", json={"training_job_id": job_id})
    refused(reply, 409, "JOB_NOT_READY", job_id, "mistudio jobs watch")
    waiting = pipeline.http.post("/api/v1/find", json={"training_job_id": job_id, "wait_for_training": True}).json()
    pipeline.http.post(f"/api/v1/jobs/{job_id}/cancel", json={})
    last = list(pipeline.client.watch(waiting["job_id"]))[-1]
    assert last.finished.error.reason == "UPSTREAM_FAILED"
    assert job_id in last.finished.error.message
    refused(pipeline.http.post("/api/v1/find", json={"training_job_id": job_id}), 409, "JOB_NOT_READY", "cancelled")


def test_find_on_a_job_of_another_service(pipeline: Pipeline):
    refused(pipeline.http.post("/api/v1/find", json={"training_job_id": pipeline.find}), 404, "JOB_NOT_FOUND")


def test_an_engine_that_is_not_configured(pipeline: Pipeline):
    body = {"find_job_id": pipeline.find, "engine": "gpt-9"}
    refused(pipeline.http.post("/api/v1/explain", json=body), 404, "ENGINE_NOT_FOUND", "gpt-9", "lexical")


def test_a_feature_that_is_not_there(pipeline: Pipeline):
    refused(pipeline.http.get(f"/api/v1/find/{pipeline.find}/features/64"), 404, "FEATURE_NOT_FOUND", "0 to 63")


@contextlib.contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit of a file is wrong inside of the block."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    path.write_bytes(data)
    try:
        yield
    finally:
        data[middle] ^= 1
        path.write_bytes(data)


def folder_of(pipeline: Pipeline, job_id: str, kind: str) -> Path:
    with contextlib.closing(sqlite3.connect(pipeline.home.database)) as connection:
        query = "SELECT folder FROM artifacts WHERE job_id = ? AND kind = ?"
        (folder,) = connection.execute(query, (job_id, kind)).fetchone()
    return pipeline.home.artifacts / folder


def test_a_flipped_bit_is_found_before_use(pipeline: Pipeline):
    with flipped(folder_of(pipeline, pipeline.train, "codes") / "codes-00000.safetensors"):
        reply = pipeline.http.post("/api/v1/find", json={"training_job_id": pipeline.train}).json()
        error = list(pipeline.client.watch(reply["job_id"]))[-1].finished.error
        assert error.reason == "ARTIFACT_CORRUPT"
        assert "codes-00000.safetensors is damaged" in error.message
        result = pipeline.http.get(f"/api/v1/train/{pipeline.train}/result").json()
        shard = result["activations_path"].replace("meta.json", "codes-00000.safetensors")
        refused(pipeline.http.get(f"/api/v1/artifacts{shard}"), 500, "ARTIFACT_CORRUPT", "damaged")
    again = pipeline.http.post("/api/v1/find", json={"training_job_id": pipeline.train}).json()
    assert list(pipeline.client.watch(again["job_id"]))[-1].finished.status == 4


def test_a_flipped_bit_in_a_manifest_is_found(pipeline: Pipeline):
    with flipped(folder_of(pipeline, pipeline.explain, "explanations") / "manifest.json"):
        reply = pipeline.http.get(f"/api/v1/explain/{pipeline.explain}/explanations")
        refused(reply, 500, "ARTIFACT_CORRUPT")
