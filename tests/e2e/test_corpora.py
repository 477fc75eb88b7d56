"""Corpora from upload to deletion, over HTTP, gRPC and the command line; and data sets of the hub."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mistudio.train.v1 import train_service_pb2 as train

from mistudio_core.artifacts import ArtifactStore
from mistudio_core.errors import Conflict, InvalidInput, MistudioError, NotFound
from mistudio_torch.codes import CodesReader
from tests.e2e.conftest import Pipeline, training
from tests.support import tinymodels
from tests.support.corpora import jsonl, parquet

SENTENCES = tinymodels.sentences(60, seed=5)
LABELLED = jsonl(*({"body": text, "tone": "ab"[n % 2], "who": n % 7} for n, text in enumerate(SENTENCES)))


def upload(pipeline: Pipeline, filename: str, data: bytes, **fields: Any) -> dict[str, Any]:
    reply = pipeline.http.post("/api/v1/upload", data=fields, files={"file": (filename, data)})
    assert reply.status_code == 200, reply.text
    return reply.json()


def finished(pipeline: Pipeline, request: train.StartTrainingRequest) -> str:
    job_id = pipeline.client.train.StartTraining(request).job_id
    last = list(pipeline.client.watch(job_id))[-1]
    assert last.finished.status == 4, last
    return job_id


def codes_of(pipeline: Pipeline, job_id: str) -> CodesReader:
    manifests = (pipeline.home.artifacts / "codes").glob("*/manifest.json")
    return next(CodesReader.from_folder(p.parent) for p in manifests if job_id in p.read_text())


def test_an_upload_tells_what_it_holds(pipeline: Pipeline):
    fields = {"text_column": "body", "label_columns": ["tone"], "group_column": "who", "name": "told"}
    reply = upload(pipeline, "told.jsonl.gz", gzip.compress(LABELLED), **fields)
    assert (reply["filename"], reply["lines_count"], reply["path"]) == ("told", 60, "/data/samples/told")
    found = reply["statistics"]
    assert found["columns"] == ["body", "tone", "who"]
    assert [(v["value"], v["documents"]) for v in found["labels"][0]["values"]] == [("a", 30), ("b", 30)]
    assert found["groups"] == 7
    assert any("Under 10,000" in warning for warning in reply["warnings"])
    corpus = pipeline.http.get("/api/v1/corpora/told").json()
    assert corpus["statistics"] == found
    assert (corpus["sha256"], corpus["source"]) == (reply["sha256"], "told.jsonl.gz")
    stored = pipeline.http.get("/api/v1/artifacts/" + corpus["path"]).content
    assert json.loads(stored.splitlines()[0])["labels"] == {"tone": "a"}


def test_labels_reach_the_codes_and_the_corpus_may_go_then(pipeline: Pipeline):
    columns = {"body": SENTENCES, "tone": ["ab"[n % 2] for n in range(60)]}
    data = parquet(columns)
    upload(pipeline, "gone.parquet", data, text_column="body", label_columns="tone")
    job_id = finished(pipeline, training(corpus_file="gone.parquet", max_epochs=1))
    deleted = pipeline.http.delete("/api/v1/corpora/gone.parquet")
    assert (deleted.status_code, deleted.json()["uploads"]) == (200, 1)
    assert pipeline.http.get(f"/api/v1/train/{job_id}/result").json()["status"] == "completed"
    codes = codes_of(pipeline, job_id)
    assert [codes.label(d) for d in range(4)] == ["a", "b", "a", "b"]
    assert codes.text(1) == SENTENCES[1]
    again = pipeline.http.post("/api/v1/train", json={"model_name": "tiny", "corpus_file": "gone.parquet"})
    assert (again.status_code, again.json()["reason"]) == (400, "CORPUS_NOT_FOUND")


def test_corpora_are_listed_newest_first_in_pages(pipeline: Pipeline):
    for number in range(3):
        upload(pipeline, f"page{number}.txt", b"the cat\n" * (number + 1))
    upload(pipeline, "page0.txt", b"a dog\n")
    first = pipeline.client.train.ListCorpora(train.ListCorporaRequest(page_size=2))
    assert [c.name for c in first.corpora] == ["page0.txt", "page2.txt"]
    second = pipeline.client.train.ListCorpora(train.ListCorporaRequest(page_size=2, page_token=first.next_page_token))
    assert second.corpora[0].name == "page1.txt"
    every = pipeline.http.get("/api/v1/corpora", params={"page_size": 1000}).json()
    names = [c["name"] for c in every["corpora"]]
    assert len(names) == len(set(names)) == every["total_corpora"] == first.total_corpora
    assert pipeline.client.train.DeleteCorpus(train.DeleteCorpusRequest(name="page0.txt")).uploads == 2
    with pytest.raises(NotFound) as caught:
        pipeline.client.train.GetCorpus(train.GetCorpusRequest(name="page0.txt"))
    assert caught.value.reason == "CORPUS_NOT_FOUND"
    assert pipeline.http.get("/api/v1/corpora", params={"page_token": "x"}).status_code == 400


def test_a_damaged_corpus_is_listed_with_what_is_wrong(pipeline: Pipeline):
    upload(pipeline, "damaged.txt", b"the cat\n")
    manifests = (pipeline.home.artifacts / "corpus").glob("*/manifest.json")
    folder = next(path.parent for path in manifests if b"damaged" in path.read_bytes())
    (folder / "about.json").write_text("{}")
    corpus = pipeline.http.get("/api/v1/corpora/damaged.txt").json()
    assert "SHA-256" in corpus["warnings"][0]
    assert "statistics" not in corpus
    assert pipeline.http.get("/api/v1/corpora").status_code == 200
    assert pipeline.http.delete("/api/v1/corpora/damaged.txt").status_code == 200


def test_a_corpus_that_a_job_reads_is_not_deleted(pipeline: Pipeline):
    upload(pipeline, "used.txt", "\n".join(SENTENCES).encode())
    job_id = pipeline.client.train.StartTraining(training(corpus_file="used.txt", max_epochs=10_000)).job_id
    with pytest.raises(Conflict, match=job_id) as caught:
        pipeline.client.train.DeleteCorpus(train.DeleteCorpusRequest(name="used.txt"))
    assert caught.value.reason == "CORPUS_IN_USE"
    assert pipeline.http.delete("/api/v1/corpora/used.txt").status_code == 409
    pipeline.http.post(f"/api/v1/jobs/{job_id}/cancel", json={})
    list(pipeline.client.watch(job_id))
    folders = {
        r.parent for r in (pipeline.home.artifacts / "corpus").glob("*/manifest.json") if b"used" in r.read_bytes()
    }
    assert pipeline.http.delete("/api/v1/corpora/used.txt").status_code == 200
    assert len(folders) == 1
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize(
    ("name", "data", "fields", "reason"),
    [
        ("a.jsonl", LABELLED, {}, "CORPUS_COLUMN_MISSING"),
        ("a.jsonl", LABELLED, {"text_column": "body", "time_column": "when"}, "CORPUS_COLUMN_MISSING"),
        ("a.jsonl", LABELLED + b"{", {"text_column": "body"}, "CORPUS_RECORD_INVALID"),
        ("a.parquet", b"PAR1", {}, "CORPUS_UNREADABLE"),
        ("a.txt.gz", b"none", {}, "CORPUS_UNREADABLE"),
        ("a.txt", b"x\n", {"text_column": "body"}, "INVALID_FIELD"),
        ("a.csv", b"x\n", {}, "UNSUPPORTED"),
        ("a.txt", b"x\n", {"name": "../x"}, "BAD_FILE_NAME"),
    ],
)
def test_what_is_refused_leaves_nothing(pipeline: Pipeline, name: str, data: bytes, fields, reason: str):
    reply = pipeline.http.post("/api/v1/upload", data=fields, files={"file": (name, data)})
    assert (reply.status_code, reply.json()["reason"]) == (400, reason)
    assert not list(ArtifactStore(pipeline.home.artifacts).staging.glob("*/corpus.*"))


def test_a_data_set_of_the_hub_is_stored_with_its_job(pipeline: Pipeline):
    options = {"text_column": "body", "label_columns": ["tone"], "max_documents": 200}
    job_id = finished(pipeline, training(corpus_file="hf:a/reviews", dataset=options, max_epochs=1))
    logs = [e.log.message for e in pipeline.client.watch(job_id) if e.WhichOneof("event") == "log"]
    assert any("reading stopped at max_documents, 200" in line for line in logs)
    artifacts = pipeline.http.get(f"/api/v1/jobs/{job_id}/artifacts").json()["artifacts"]
    assert [a["uri"] for a in artifacts if a["kind"] == "corpus"] == [f"/data/samples/{job_id}/corpus"]
    codes = codes_of(pipeline, job_id)
    assert (codes.n_documents, codes.label(0), codes.text(0)) == (200, "a", tinymodels.sentences(300)[0])
    assert f"{job_id}/corpus" not in [c["name"] for c in pipeline.http.get("/api/v1/corpora").json()["corpora"]]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("hf:a/none", {}, "DATASET_NOT_FOUND"),
        ("hf:a/closed", {}, "DATASET_GATED"),
        ("hf:nonsense", {}, "INVALID_FIELD"),
        ("small.txt", {"split": "test"}, "INVALID_FIELD"),
    ],
)
def test_a_data_set_that_cannot_be_had_starts_no_job(pipeline: Pipeline, name: str, options, reason: str):
    with pytest.raises(MistudioError) as caught:
        pipeline.client.train.StartTraining(training(corpus_file=name, dataset=options or None))
    assert caught.value.reason == reason


def test_the_command_line(pipeline: Pipeline, tmp_path: Path):
    def mistudio(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mistudio_cli", *arguments, "--home", str(pipeline.home.root)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    folder = tmp_path / "several"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LABELLED)
    (folder / "b.txt").write_text("the cat\n\na dog\nsat\n")
    options = ("--text-column", "body", "--label-column", "tone", "--separator", r"\n\n")
    done = mistudio("upload", str(folder), *options)
    assert done.returncode == 0, done.stderr
    assert "62 documents" in done.stdout
    assert "2 values: a 30, b 30" in done.stdout
    assert "Warning: The corpus has 62 documents." in done.stdout
    assert "several" in mistudio("corpora", "list").stdout
    assert json.loads(mistudio("corpora", "show", "several", "--json").stdout)["statistics"]["documents"] == 62
    assert "Deleted several" in mistudio("corpora", "delete", "several").stdout
    (folder / "c.jsonl").write_text('{"body": 3}\n')
    broken = mistudio("upload", str(folder), *options)
    assert broken.stderr.startswith("CORPUS_RECORD_INVALID: Line 1 of corpus file 'c.jsonl'")
    assert mistudio("corpora", "show", "several").returncode == 1


def test_an_upload_that_fails_on_the_way_raises_its_own_error(pipeline: Pipeline):
    def pieces():
        yield b"one\n"
        raise InvalidInput("the disk is gone")

    with pytest.raises(InvalidInput, match="the disk is gone"):
        pipeline.client.upload_pieces(train.UploadHeader(filename="torn.txt"), pieces())
    with pytest.raises(NotFound):
        pipeline.client.train.GetCorpus(train.GetCorpusRequest(name="torn.txt"))
