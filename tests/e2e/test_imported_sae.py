"""Find on an SAE that no job here trained, and on redacted text: through processes, files and a hub to the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mistudio.artifact.v1 import artifact_pb2
from mistudio.explain.v1 import explain_service_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.job.v1 import job_pb2
from mistudio.train.v1 import train_service_pb2

from mistudio_cli.__main__ import run_command
from mistudio_core.errors import Forbidden, InvalidInput, NotFound, Unsupported
from tests.e2e.conftest import GATED_TOKEN, Pipeline, training
from tests.support import tinymodels

CORPUS = "imported.txt"
Trained = train_service_pb2.GetTrainingResultResponse
CANARY = "zqjane@zqcorp.example"


@pytest.fixture(scope="module")
def trained(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training job on a corpus of this file's own; its SAE lies under the model root and on the hub."""
    path = tmp_path_factory.mktemp("imported") / CORPUS
    path.write_text("\n".join(f"{text} zqplain {CANARY}" for text in tinymodels.sentences(300)))
    pipeline.client.upload_corpus(path)
    job_id = pipeline.client.train.StartTraining(training(corpus_file=CORPUS)).job_id
    completed(pipeline, job_id)
    result = pipeline.client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))
    (artifact,) = (a for a in result.artifacts if a.kind == artifact_pb2.ARTIFACT_KIND_SAE)
    folder = pipeline.home.models / "exported"
    folder.mkdir()
    for file in artifact.files:
        pipeline.client.download(f"{artifact.uri}/{file.name}", folder / file.name)
    hub = pipeline.home.root.parent / "saes" / "layer_1" / "width_64"
    shutil.copytree(folder, hub)
    return result


def completed(pipeline: Pipeline, job_id: str) -> None:
    last = list(pipeline.client.watch(job_id))[-1].finished
    assert last.status == job_pb2.JOB_STATUS_COMPLETED, last


def find(pipeline: Pipeline, **fields) -> find_service_pb2.GetFindResultResponse:
    job_id = pipeline.client.find.StartFind(find_service_pb2.StartFindRequest(**fields)).job_id
    completed(pipeline, job_id)
    return pipeline.client.find.GetFindResult(find_service_pb2.GetFindResultRequest(job_id=job_id))


def imported(uri: str, **fields) -> dict[str, object]:
    return {"sae_uri": uri, "model_name": "tiny", "corpus_file": CORPUS, **fields}


def features(pipeline: Pipeline, job_id: str):
    request = find_service_pb2.ListFeaturesRequest(job_id=job_id, page_size=100)
    return {f.feature_id: f for f in pipeline.client.find.ListFeatures(request).features}


def test_an_exported_sae_gives_the_features_of_its_training_job(pipeline: Pipeline, trained: Trained):
    theirs = find(pipeline, training_job_id=trained.job_id)
    ours = find(pipeline, **imported("exported"))
    assert (ours.tokens, ours.live_features) == (theirs.tokens, theirs.live_features)
    assert ours.sae_sha256 == theirs.sae_sha256 and not theirs.HasField("sae_origin")
    origin = ours.sae_origin
    assert (origin.uri, origin.format, origin.hook_name) == ("exported", "saelens", "blocks.1.hook_resid_post")
    assert len(origin.sha256) == len(origin.corpus_sha256) == 64 and origin.fvu > 0
    assert {a.kind for a in ours.artifacts} >= {artifact_pb2.ARTIFACT_KIND_SAE, artifact_pb2.ARTIFACT_KIND_CODES}
    expected = features(pipeline, theirs.job_id)
    for number, feature in features(pipeline, ours.job_id).items():
        other = expected[number]
        assert feature.activation_statistics.max == pytest.approx(other.activation_statistics.max, rel=1e-3)
        assert feature.coherence_score == pytest.approx(other.coherence_score, abs=1e-3)
        assert [t.text for t in feature.top_activations] == [t.text for t in other.top_activations]


def test_an_sae_of_the_hub_is_pinned_and_one_of_this_store_is_taken(pipeline: Pipeline, trained: Trained):
    found = find(pipeline, **imported("hf:a/saes/layer_1/width_64", max_tokens=1000))
    assert found.sae_origin.uri == f"hf:a/saes@{'0123456789abcdef' * 2}01234567/layer_1/width_64"
    assert found.tokens <= 1000 and found.sae_sha256 == trained.sae_sha256
    (own,) = (a.uri for a in trained.artifacts if a.kind == artifact_pb2.ARTIFACT_KIND_SAE)
    assert find(pipeline, **imported(own, max_tokens=1000)).sae_sha256 == trained.sae_sha256


def test_a_gated_sae_needs_its_token(pipeline: Pipeline, trained: Trained):
    fields = imported("hf:a/own-saes/layer_1/width_64", max_tokens=1000)
    with pytest.raises(Forbidden):
        pipeline.client.find.StartFind(find_service_pb2.StartFindRequest(**fields))
    assert find(pipeline, **fields, huggingface_token=GATED_TOKEN).sae_sha256 == trained.sae_sha256
    left = [p for p in pipeline.home.root.rglob("*") if p.is_file() and GATED_TOKEN.encode() in p.read_bytes()]
    assert left == []


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        (imported("nowhere"), NotFound, "mistudio sae import"),
        (imported("hf:a/saes"), InvalidInput, "layer_1/width_64"),
        (imported("hf:a/nothing/x"), NotFound, "a/nothing"),
        (imported("/data/models/train_20250101_000000_00000000/sae"), NotFound, "not found"),
        (imported("exported", corpus_file="absent.txt"), InvalidInput, "absent.txt"),
        (imported("exported", model_name="nobody/nothing"), NotFound, "nobody/nothing"),
        (imported("exported", hook_name="blocks.1.hook_resid_pos"), InvalidInput, "hook_resid_post"),
        (imported("exported", training_job_id="train_20250101_000000_00000000"), InvalidInput, "sae_uri"),
    ],
)
def test_what_cannot_be_found_is_refused_before_a_job_exists(pipeline: Pipeline, trained: Trained, fields, error, said):
    with pytest.raises(error, match=said):
        pipeline.client.find.StartFind(find_service_pb2.StartFindRequest(**fields))


def test_redacted_text_leaves_no_canary_and_no_text_leaves_no_word(pipeline: Pipeline, trained: Trained):
    for setting, words in (("redacted", (b"zqjane", b"zqcorp")), ("none", (b"zqjane", b"zqcorp", b"zqplain"))):
        result = find(pipeline, training_job_id=trained.job_id, evidence_text=setting_value(setting))
        (artifact,) = (a for a in result.artifacts if a.kind == artifact_pb2.ARTIFACT_KIND_FEATURES)
        folder = Path(pipeline.home.root.parent / f"read-{setting}")
        folder.mkdir()
        for file in artifact.files:
            pipeline.client.download(f"{artifact.uri}/{file.name}", folder / file.name)
        (folder / "events").write_text("".join(map(str, pipeline.client.watch(result.job_id))))
        logs = list((pipeline.home.logs / "jobs").glob(f"{result.job_id}*"))
        for path in (*folder.iterdir(), *logs):
            body = path.read_bytes()
            assert not [word for word in words if word in body], path.name
        tokens = pipeline.http.get(f"/api/v1/find/{result.job_id}/export/delphi").json()
        assert tokens["reason"] == "UNSUPPORTED" and f"evidence_text {setting}" in tokens["detail"]
    request = explain_service_pb2.StartExplainRequest(find_job_id=result.job_id)
    with pytest.raises(Unsupported, match="full or redacted"):
        pipeline.client.explain.StartExplain(request)


def setting_value(name: str) -> int:
    return {"redacted": 2, "none": 3}[name]


def test_the_command_analyses_an_imported_sae(pipeline: Pipeline, trained: Trained, capsys: pytest.CaptureFixture[str]):
    words = ["find", "--sae-uri", "exported", "--model", "tiny", "--corpus", CORPUS]
    words += ["--hook", "blocks.1.hook_resid_post", "--max-tokens", "1000", "--home", str(pipeline.home.root), "--json"]
    assert run_command(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "at most 1,000 tokens" in lines[0]["started"]["message"]
    assert lines[-1]["result"]["sae_origin"]["format"] == "saelens"
