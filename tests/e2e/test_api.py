"""Every published route answers with the documented JSON.

The examples of the published API documentation are copied as facts: names and types must match,
less the deliberate differences (paths end in .safetensors, fields may be added, `paused` exists).
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.export import save_export
from tests.e2e.conftest import Pipeline

MODEL_INFO = {
    "model_name": "microsoft/Phi-4",
    "actual_model_loaded": "microsoft/Phi-4",
    "architecture": "phi3",
    "total_layers": 40,
    "selected_layer": 16,
    "hidden_size": 5120,
    "vocab_size": 32000,
    "requires_token": False,
}
HEALTH = {
    "service": "miStudioTrain",
    "status": "healthy",
    "version": "1.2.0",
    "gpu_available": True,
    "gpu_count": 2,
    "memory_status": {},
}
GPU_STATUS = {"cuda_available": True, "device_count": 2, "gpus": {}}
STATUS = {
    "job_id": "train_20250725_224918_1982",
    "status": "running",
    "progress": 0.65,
    "current_epoch": 33,
    "current_loss": 0.0234,
    "message": "Training in progress - Epoch 33/50",
    "model_info": MODEL_INFO,
    "last_checkpoint": "/data/models/train_20250725_224918_1982_checkpoint_30.pt",
}
RESULT = {
    "job_id": "train_20250725_224918_1982",
    "status": "completed",
    "model_path": "/data/models/train_20250725_224918_1982_sae.pt",
    "activations_path": "/data/activations/train_20250725_224918_1982_activations.pt",
    "metadata_path": "/data/activations/train_20250725_224918_1982_metadata.json",
    "training_stats": {
        "final_loss": 0.0156,
        "total_epochs": 42,
        "training_time_seconds": 2847.0,
        "convergence_epoch": 38,
        "feature_statistics": {
            "total_features": 1024,
            "active_features": 876,
            "dead_features": 148,
            "mean_activation": 0.0023,
            "sparsity_achieved": 0.0019,
        },
    },
    "feature_count": 1024,
    "model_info": MODEL_INFO,
    "ready_for_find_service": True,
    "checkpoints": ["/data/models/train_20250725_224918_1982_checkpoint_30.pt"],
}
JOBS = {
    "total_jobs": 3,
    "jobs": [
        {
            "job_id": "train_20250725_224918_1982",
            "status": "completed",
            "model_name": "microsoft/Phi-4",
            "created_at": "2025-07-25T22:49:18Z",
            "completed_at": "2025-07-25T23:36:45Z",
        }
    ],
}
CHECK_MEMORY = {
    "model_name": "microsoft/Phi-4",
    "memory_check": {
        "sufficient": True,
        "required_gb": 18.5,
        "available_gb": 24.0,
        "recommendations": {
            "min_gpu_memory_gb": 16.0,
            "recommended_gpu_memory_gb": 24.0,
            "is_large_model": True,
            "use_4bit_quantization": True,
            "use_gradient_checkpointing": True,
        },
    },
    "optimization_suggestions": {
        "batch_size": 4,
        "max_sequence_length": 512,
        "enable_4bit": True,
        "enable_checkpointing": True,
    },
    "gpu_compatibility": {},
}
UPLOAD = {
    "message": "File uploaded successfully",
    "filename": "customer_reviews.txt",
    "size_bytes": 2048576,
    "lines_count": 10000,
    "path": "/data/samples/customer_reviews.txt",
}
VALIDATE = {
    "model_name": "microsoft/Phi-4",
    "valid": True,
    "accessible": True,
    "requires_token": False,
    "model_info": {"architecture": "phi3", "total_layers": 40, "hidden_size": 5120, "vocab_size": 32000},
    "memory_requirements": {"minimum_gb": 16.0, "recommended_gb": 24.0},
}
START = {
    "job_id": "train_20250725_224918_1982",
    "status": "queued",
    "message": "Training job started for microsoft/Phi-4",
    "model_name": "microsoft/Phi-4",
    "requires_token": False,
    "memory_check": "passed",
    "optimizations_applied": "Applied optimizations for microsoft/Phi-4: true",
}
# the published request, with a model and a corpus that are here and a layer that it has
REQUEST = {
    "model_name": "tiny",
    "corpus_file": "small.txt",
    "layer_number": 1,
    "hidden_dim": 64,
    "sparsity_coeff": 0.001,
    "learning_rate": 0.0001,
    "batch_size": 8,
    "max_epochs": 2,
    "min_loss": 0.01,
    "gpu_id": None,
    "max_sequence_length": 16,
}


def same_shape(found: Any, example: Any, where: str = "$") -> None:
    """Every name of the example is there, with a value of its JSON type."""
    if isinstance(example, dict):
        assert isinstance(found, dict), where
        for name, value in example.items():
            assert name in found, f"{where}.{name} is missing"
            same_shape(found[name], value, f"{where}.{name}")
    elif isinstance(example, list):
        assert isinstance(found, list), where
        for item in found:
            same_shape(item, example[0], f"{where}[]")
    elif isinstance(example, bool | str):
        assert type(found) is type(example), f"{where}: {found!r}"
    else:
        assert isinstance(found, int | float) and not isinstance(found, bool), f"{where}: {found!r}"


def test_health_is_open_and_as_published(pipeline: Pipeline):
    reply = pipeline.http.get("/health", headers={"Authorization": ""})
    same_shape(reply.json(), HEALTH)
    assert reply.json()["service"] == "miStudioTrain"


@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("/gpu/status", GPU_STATUS),
        ("/api/v1/train/{train}/status", {**STATUS, "status": "completed"}),
        ("/api/v1/train/{train}/result", RESULT),
        ("/api/v1/jobs", JOBS),
        ("/api/v1/check-memory/tiny", CHECK_MEMORY),
    ],
)
def test_a_published_route_answers_as_documented(pipeline: Pipeline, path: str, example: Any):
    reply = pipeline.http.get(path.format(train=pipeline.train))
    assert reply.status_code == 200, reply.text
    same_shape(reply.json(), example)


def test_paths_are_logical_and_end_in_safetensors(pipeline: Pipeline):
    result = pipeline.http.get(f"/api/v1/train/{pipeline.train}/result").json()
    assert result["model_path"] == f"/data/models/{pipeline.train}/sae/sae_weights.safetensors"
    assert result["activations_path"].startswith("/data/activations/")
    assert all(p.endswith(".safetensors") for p in result["checkpoints"])
    assert str(pipeline.home.root) not in json.dumps(result)


def test_a_memory_check_takes_the_run_s_parameters(pipeline: Pipeline):
    def planned(query: str) -> Any:
        return pipeline.http.get(f"/api/v1/check-memory/tiny?{query}").json()

    plan = planned("layer_number=2&architecture=topk&hidden_dim=4096&k=8&dtype=bfloat16&token_budget=1000")
    assert (plan["plan"]["layer_number"], plan["plan"]["precision"]) == (2, "bfloat16")
    assert plan["plan"]["host_bytes"] > planned("architecture=topk&hidden_dim=64&k=8")["plan"]["host_bytes"]
    assert plan["time"]["seconds"] > 0 and len(plan["cards"]) == 8
    assert planned("hidden_dim=1")["reason"] == "INVALID_FIELD" and planned("width=9")["reason"] == "UNKNOWN_FIELD"


def test_a_model_name_may_hold_an_encoded_slash(pipeline: Pipeline):
    reply = pipeline.http.get("/api/v1/check-memory/nobody%2Fnothing")
    assert reply.json()["code"] in ("NOT_FOUND", "UNAVAILABLE")
    assert "nobody/nothing" in reply.json()["detail"]


def test_upload_validate_and_start_answer_as_documented(pipeline: Pipeline):
    files = {"file": ("customer_reviews.txt", b"good\n\nbad\n")}
    upload = pipeline.http.post("/api/v1/upload", files=files).json()
    same_shape(upload, UPLOAD)
    assert (upload["lines_count"], upload["size_bytes"]) == (2, 10)
    same_shape(pipeline.http.post("/api/v1/validate-model", json={"model_name": "tiny"}).json(), VALIDATE)
    started = pipeline.http.post("/api/v1/train", json=REQUEST)
    assert started.status_code == 200, started.text
    same_shape(started.json(), START)
    assert started.json()["status"] == "queued"
    pipeline.http.post(f"/api/v1/jobs/{started.json()['job_id']}/cancel", json={})


def test_the_chosen_layer_is_told(pipeline: Pipeline):
    body = {k: v for k, v in REQUEST.items() if k != "layer_number"}
    reply = pipeline.http.post("/api/v1/train", json=body).json()
    assert "layer 1 of 3 was chosen" in reply["message"]
    pipeline.http.post(f"/api/v1/jobs/{reply['job_id']}/cancel", json={})


def test_sixteen_equal_starts_give_one_job(pipeline: Pipeline):
    body = {**REQUEST, "request_id": "sixteen"}
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: pipeline.http.post("/api/v1/train", json=body).json(), range(16)))
    ids = {r["job_id"] for r in replies}
    assert len(ids) == 1
    other = pipeline.http.post("/api/v1/train", json={**body, "seed": 7})
    assert other.status_code == 400
    assert other.json()["reason"] == "REQUEST_ID_REUSED"
    pipeline.http.post(f"/api/v1/jobs/{ids.pop()}/cancel", json={})


def test_find_and_explain_have_the_same_shape(pipeline: Pipeline):
    find = pipeline.http.get(f"/api/v1/find/{pipeline.find}/result").json()
    assert find["source_training_job"] == pipeline.train
    assert find["total_features"] == 64
    page = pipeline.http.get(f"/api/v1/find/{pipeline.find}/features", params={"page_size": 10}).json()
    assert len(page["features"]) == 10
    second = {"page_size": 60, "page_token": page["next_page_token"]}
    rest = pipeline.http.get(f"/api/v1/find/{pipeline.find}/features", params=second).json()
    assert len(rest["features"]) == 54 and rest["next_page_token"] == ""
    live = {"filter": "NOT dead = true", "order_by": "activation_statistics.frequency desc", "page_size": 5}
    dense = pipeline.http.get(f"/api/v1/find/{pipeline.find}/features", params=live).json()
    shares = [f["activation_statistics"]["frequency"] for f in dense["features"]]
    assert dense["total_features"] == find["live_features"] and shares == sorted(shares, reverse=True)
    word = "".join(c if c.isalnum() else " " for c in dense["features"][0]["top_activations"][0]["text"]).split()[0]
    hits = pipeline.http.get("/api/v1/find/search", params={"query": word, "job_id": pipeline.find}).json()["hits"]
    assert hits and all(hit["job_id"] == pipeline.find for hit in hits)
    feature = pipeline.http.get(f"/api/v1/find/{pipeline.find}/features/{page['features'][0]['feature_id']}").json()
    top = feature["top_activations"][0]
    assert "".join(top["tokens"]) == top["text"]
    assert len(top["activations"]) == len(top["tokens"])
    assert max(top["activations"]) == pytest.approx(top["activation_strength"], rel=1e-3)
    explained = pipeline.http.get(f"/api/v1/explain/{pipeline.explain}/explanations").json()
    assert explained["total_explanations"] == len(explained["explanations"])
    qualities = [e["explanation_quality"] for e in explained["explanations"] if not e["failure"]]
    assert qualities == sorted(qualities, reverse=True)


def test_exports_are_the_files_that_the_jobs_wrote(pipeline: Pipeline):
    analysis = pipeline.http.get(f"/api/v1/find/{pipeline.find}/export/json")
    assert analysis.headers["content-type"].startswith("application/json")
    assert len(analysis.json()["features"]) == 64
    table = pipeline.http.get(f"/api/v1/find/{pipeline.find}/export/csv")
    assert len(table.text.strip().splitlines()) == 65
    report = pipeline.http.get(f"/api/v1/explain/{pipeline.explain}/report.html")
    assert "<script" not in report.text.lower()
    assert report.headers["x-content-type-options"] == "nosniff"
    explanations = pipeline.http.get(f"/api/v1/explain/{pipeline.explain}/export/json").json()
    assert explanations["job_metadata"]["source_find_job"] == pipeline.find


def test_an_analysis_downloads_in_other_forms_compressed_and_in_parts(pipeline: Pipeline, tmp_path: Path):
    base = f"/api/v1/find/{pipeline.find}"
    whole = pipeline.http.get(f"{base}/export/xml")
    assert (whole.headers["content-encoding"], whole.headers["content-type"]) == ("gzip", "application/xml")
    rest = pipeline.http.get(f"{base}/export/xml", headers={"range": "bytes=100-"})
    assert rest.status_code == 206 and rest.content == whole.content[100:]
    with zipfile.ZipFile(io.BytesIO(pipeline.http.get(f"{base}/bundle").content)) as archive:
        assert archive.read("feature_analysis.xml") == whole.content
    made = pipeline.http.get(f"/api/v1/jobs/{pipeline.find}/artifacts").json()["artifacts"]
    assert sorted(a["uri"].rpartition("/")[2] for a in made if a["kind"] == "export") == ["xml", "zip"]
    saved = save_export(pipeline.client, "find", pipeline.find, "delphi", tmp_path)
    assert tarfile.is_tarfile(saved) and saved.name == "delphi.tar"
    unknown = pipeline.http.get(f"{base}/export/pdf")
    assert unknown.status_code == 400 and "safetensors" in unknown.json()["detail"]


def test_an_artifact_downloads_and_resumes(pipeline: Pipeline):
    result = pipeline.http.get(f"/api/v1/train/{pipeline.train}/result").json()
    whole = pipeline.http.get(f"/api/v1/artifacts{result['model_path']}").content
    rest = pipeline.http.get(f"/api/v1/artifacts{result['model_path']}", params={"offset": 100}).content
    assert whole[100:] == rest
    sae = next(a for a in result["artifacts"] if a["kind"] == "sae")
    sizes = {f["name"]: f["size_bytes"] for f in sae["files"]}
    assert sizes["sae_weights.safetensors"] == len(whole)


def test_events_go_on_after_the_last_event_id(pipeline: Pipeline):
    def ids(headers: dict[str, str]) -> list[int]:
        text = pipeline.http.get(f"/api/v1/jobs/{pipeline.train}/events", headers=headers).text
        return [int(line[3:]) for line in text.splitlines() if line.startswith("id:")]

    every = ids({})
    assert every == list(range(1, len(every) + 1))
    assert ids({"Last-Event-ID": "3"}) == every[3:]


def test_jobs_of_other_services_are_listed_on_demand(pipeline: Pipeline):
    jobs = pipeline.http.get("/api/v1/jobs", params={"service": "find"}).json()["jobs"]
    assert {j["service"] for j in jobs} == {"find"}


def test_openapi_has_every_published_route(pipeline: Pipeline):
    paths = pipeline.http.get("/openapi.json").json()["paths"]
    published = ["/health", "/gpu/status", "/api/v1/train", "/api/v1/jobs", "/api/v1/upload", "/api/v1/validate-model"]
    published += ["/api/v1/train/{job_id}/status", "/api/v1/train/{job_id}/result", "/api/v1/check-memory/{model_name}"]
    assert [p for p in published if p not in paths] == []


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/gpu/status", "/api/v1/engines"])
@pytest.mark.parametrize("token", ["", "Bearer wrong", "Basic abc"])
def test_without_the_token_nothing_is_told(pipeline: Pipeline, path: str, token: str):
    reply = pipeline.http.get(path, headers={"Authorization": token})
    assert reply.status_code == 401
    assert reply.json()["reason"] in ("TOKEN_MISSING", "TOKEN_INVALID")
