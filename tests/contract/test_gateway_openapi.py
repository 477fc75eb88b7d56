"""The OpenAPI document is valid, complete and says the published routes; the sentences are the .proto files' own."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis

from gateway.binding import bindings
from gateway.descriptions import FILE
from gateway.openapi import document
from gateway.rest import handler_of
from mistudio_rpc.contract import installed

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = """
GET /health;
GET /gpu/status;
POST /api/v1/train;
GET /api/v1/train/{job_id}/status;
GET /api/v1/train/{job_id}/result;
GET /api/v1/jobs;
GET /api/v1/check-memory/{model_name};
POST /api/v1/upload;
POST /api/v1/validate-model;
POST /api/v1/find;
GET /api/v1/find/{job_id}/status;
GET /api/v1/find/{job_id}/result;
GET /api/v1/find/{job_id}/features;
GET /api/v1/find/{job_id}/features/{feature_id};
GET /api/v1/find/{job_id}/export/{format};
GET /api/v1/find/{job_id}/bundle;
GET /api/v1/find/{job_id}/compare/{other};
GET /api/v1/find/history;
GET /api/v1/find/search;
POST /api/v1/explain;
GET /api/v1/explain/{job_id}/explanations;
GET /api/v1/explain/{job_id}/report.{format};
POST /api/v1/jobs/{job_id}/cancel;
GET /api/v1/jobs/{job_id}/events
"""


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return json.loads(json.dumps(document(installed())))


def test_published_routes(api: dict[str, Any]) -> None:
    served = {f"{verb.upper()} {path}" for path, verbs in api["paths"].items() for verb in verbs}
    assert {line.strip() for line in PUBLISHED.split(";")} <= served


def test_every_public_rpc_has_a_route_and_no_internal_one() -> None:
    routed = {b.method.path for b in bindings(installed())}
    assert routed == {m.path for m in installed() if not m.is_internal}


def test_literal_paths_win() -> None:
    ordered = bindings(installed())

    def first(path: str) -> str:
        return next(b.method.name for b in ordered if b.match(path) is not None)

    assert first("/api/v1/find/history") == "ListFindHistory"
    assert first("/api/v1/find/search") == "SearchFeatures"
    assert first("/api/v1/explain/features/find_1/3") == "ExplainFeature"
    assert first("/api/v1/explain/explain_1/explanations/3") == "GetExplanation"
    assert first("/api/v1/explain/explain_1/report.html") == "ExportExplanations"
    assert first("/api/v1/jobs/train_1/events") == "WatchJob"


def test_an_upload_has_its_options_beside_the_file(api: dict[str, Any]) -> None:
    schema = api["paths"]["/api/v1/upload"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"text_column", "label_columns", "separator", "name", "file"} <= set(schema["properties"])
    assert schema["required"] == ["file"]
    assert schema["properties"]["label_columns"]["maxItems"] == 20


def test_shapes() -> None:
    names = {b.method.name: handler_of(b.method).__name__ for b in bindings(installed())}
    assert names["UploadCorpus"] == "upload" and names["WatchJob"] == "server_sent_events"
    assert names["ExportFeatures"] == names["ReadArtifact"] == "download" and names["StartTraining"] == "unary"


def test_references_and_schemas(api: dict[str, Any]) -> None:
    text = json.dumps(api)
    schemas = api["components"]["schemas"]
    assert {r.split("/")[-1] for r in re.findall(r'"#/components/schemas/([^"]+)"', text)} == set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [o["operationId"] for verbs in api["paths"].values() for o in verbs.values()]
    assert len(ids) == len(set(ids))
    for operation in (o for verbs in api["paths"].values() for o in verbs.values()):
        assert operation["description"] and operation["summary"], operation["operationId"]


def test_document_is_openapi_3_1(api: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(api).validate()  # against the specification's own schema
    for path, verbs in api["paths"].items():
        for operation in verbs.values():
            placed = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert placed == set(re.findall(r"{(\w+)}", path))


def test_rules_of_a_request(api: dict[str, Any]) -> None:
    start = api["components"]["schemas"]["train.v1.StartTrainingRequest"]
    assert start["required"] == ["model_name", "corpus_file"] and start["additionalProperties"] is False
    fields = start["properties"]
    assert (fields["hidden_dim"]["minimum"], fields["hidden_dim"]["maximum"]) == (8, 1048576)
    assert fields["gpu_id"]["type"] == ["integer", "null"]
    assert fields["request_id"]["pattern"] == "^[A-Za-z0-9._:-]*$"
    status = api["components"]["schemas"]["train.v1.GetTrainingStatusResponse"]
    assert "progress" in status["required"] and "last_checkpoint" not in status["required"]
    assert "running" in status["properties"]["status"]["enum"]


def test_every_rpc_that_is_not_open_names_the_token(api: dict[str, Any]) -> None:
    open_paths = {p for p, verbs in api["paths"].items() for o in verbs.values() if o.get("security") == []}
    assert open_paths == {"/health"} and api["security"] == [{"bearer": []}]


def test_descriptions_are_those_of_the_protos() -> None:
    spec = importlib.util.spec_from_file_location("generate_descriptions", ROOT / "tools" / "generate_descriptions.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    committed = json.loads(FILE.read_text())
    assert committed == tool.descriptions(), "run tools/generate_descriptions.py"
