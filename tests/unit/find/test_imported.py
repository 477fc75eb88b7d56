"""Find on SAEs of another origin: the same as on the training job that they come from; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mistudio_core.artifacts import ArtifactReader
from mistudio_core.errors import Cancelled, InvalidInput, LimitReached, MistudioError, NotFound
from mistudio_core.jobs.local import LocalContext
from mistudio_find import imported_codes, imported_sae, job
from mistudio_find.config import FindConfig
from mistudio_find.pages import FeaturePages
from mistudio_torch.codes import CodesReader
from mistudio_torch.formats import read_sae, write_sae
from mistudio_torch.formats.base import SaeMetadata
from mistudio_torch.sae import SaeShape, make_sae
from mistudio_train import job as train_job
from mistudio_train.config import TrainConfig
from tests.support import tinymodels

HOOK = "blocks.1.hook_resid_post"


def context(folder: Path, corpus: ArtifactReader, **inputs: ArtifactReader) -> LocalContext:
    return LocalContext(folder, inputs={"corpus": corpus, **inputs})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model root with a tiny model and the SAE that was trained on it, in two layouts; Find on the training job."""
    folder = tmp_path_factory.mktemp("imported")
    models = folder / "models"
    tinymodels.make(models / "gpt2", "gpt2")
    tinymodels.make(models / "wide", "gpt2", hidden_size=24)
    upload = LocalContext(folder / "upload").store.stage("/data/samples/small.txt", "corpus")
    upload.write("corpus.txt", "\n".join(tinymodels.sentences(150)).encode())
    corpus = LocalContext(folder / "upload").store.open(upload.seal())
    trained = context(folder / "train", corpus)
    train_job.run(
        TrainConfig(
            model_name="gpt2",
            layer_number=1,
            architecture="topk",
            hidden_dim=32,
            k=4,
            learning_rate=3e-3,
            max_epochs=3,
            min_loss=0.0,
            sae_batch_tokens=64,
            splice_tokens=0,
            model_root=models,
        ),
        trained,
    )
    own = read_sae(trained.reader("sae").path("cfg.json").parent)
    for form in ("saelens", "sparsify"):
        write_sae(own.sae, models / form, form, own.metadata)
    find = context(folder / "find", corpus, codes=trained.reader("codes"), sae=trained.reader("sae"))
    result = job.run(FindConfig(training_job_id="train_20250101_000000_00000000"), find)
    return SimpleNamespace(folder=folder, models=models, corpus=corpus, trained=trained, find=find, result=result)


def asked(made: SimpleNamespace, **fields: object) -> FindConfig:
    given = {"sae_uri": "saelens", "model_name": "gpt2", "corpus_file": "small.txt", "model_root": made.models}
    return FindConfig(**{**given, **fields})  # type: ignore[arg-type]


def features(found: LocalContext) -> list[dict[str, object]]:
    pages = FeaturePages(found.reader("analysis"))
    return [pages.feature(number) for number in range(pages.total)]


@pytest.mark.parametrize("layout", ["saelens", "sparsify"])
def test_an_imported_sae_has_the_features_of_its_training_job(made, tmp_path, layout):
    found = context(tmp_path, made.corpus)
    hook = "" if layout == "saelens" else HOOK
    result = job.run(asked(made, sae_uri=layout, hook_name=hook), found)
    assert result.live_features == made.result.live_features and result.tokens == made.result.tokens
    for ours, theirs in zip(features(found), features(made.find), strict=True):
        assert ours["activation_statistics"]["max"] == pytest.approx(theirs["activation_statistics"]["max"], rel=1e-2)
        assert ours["pattern_keywords"] == theirs["pattern_keywords"]
        assert [t["text"] for t in ours["top_activations"]][:3] == [t["text"] for t in theirs["top_activations"]][:3]
        assert ours["coherence_score"] == pytest.approx(theirs["coherence_score"], abs=0.02)
    origin = result.sae_origin
    assert origin["format"] == layout and origin["hook_name"] == HOOK and origin["fvu"] < 0.9
    assert origin["corpus_sha256"] and len(origin["sha256"]) == 64
    kept = found.reader("sae")
    assert kept.record.file("sae_weights.safetensors").sha256 == result.sae_sha256
    assert json.loads(kept.read_bytes(imported_sae.ORIGIN_FILE))["sha256"] == origin["sha256"]


@pytest.fixture(scope="module")
def whole(made: SimpleNamespace) -> LocalContext:
    """A run on the SAE that nothing stopped."""
    found = context(made.folder / "whole", made.corpus)
    assert job.run(asked(made), found).sae_sha256 == made.result.sae_sha256
    return found


def test_codes_are_those_of_the_training_job_and_stages_are_told(made, whole):
    found = whole
    ours, theirs = CodesReader(found.reader("codes")), CodesReader(made.trained.reader("codes"))
    assert (ours.feature(3).positions == theirs.feature(3).positions).all()
    assert (ours.feature(3).values == theirs.feature(3).values).all()
    assert ours.meta["hook_name"] == HOOK and ours.meta["origin"]["uri"] == "saelens"
    stages = list(dict.fromkeys(stage for stage, _ in found.progress_reports))
    assert stages[0] == "load" and set(stages[1:3]) == {"harvest", "encode"}
    assert {"index", "analyse", "write"} <= set(stages)
    fractions = [fraction for _, fraction in found.progress_reports]
    assert fractions == sorted(fractions) and fractions[-1] <= 1.0
    assert any("documents with" in line and "analysed" in line for _, line in found.log_lines)


def test_an_sae_artifact_of_this_installation_is_an_origin(made, tmp_path):
    uri = made.trained.reader("sae").record.uri
    found = context(tmp_path, made.corpus, origin=made.trained.reader("sae"))
    result = job.run(asked(made, sae_uri=uri, max_tokens=1000), found)
    assert result.sae_sha256 == made.result.sae_sha256 and 0 < result.tokens <= 1000
    assert any("max_tokens" in line for _, line in found.log_lines)


class Stops(LocalContext):
    """Is cancelled at a stage."""

    at = ""

    def progress(self, stage, **figures):
        super().progress(stage, **figures)
        self.cancelled = self.cancelled or stage == self.at


@pytest.mark.parametrize(("stage", "again"), [("harvest", True), ("index", False)])
def test_a_stopped_job_goes_on_and_ends_the_same(made, whole, tmp_path, stage, again):
    stopped = Stops(tmp_path, inputs={"corpus": made.corpus})
    stopped.at = stage
    with pytest.raises(Cancelled):
        job.run(asked(made), stopped)
    found = context(tmp_path, made.corpus)
    assert job.run(asked(made), found).sae_sha256 == made.result.sae_sha256
    harvested = [stage for stage, _ in found.progress_reports if stage == "harvest"]
    assert bool(harvested) == again
    assert sum(record.kind == "codes" for record in found.artifacts) == 1
    assert features(found) == features(whole)


def changed(made: SimpleNamespace, name: str, **values: object) -> str:
    """A copy of the SAELens folder with another config."""
    folder = made.models / name
    shutil.copytree(made.models / "saelens", folder)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= values
    (folder / "cfg.json").write_text(json.dumps(config))
    return name


def refused(made: SimpleNamespace, folder: Path, **fields: object) -> MistudioError:
    found = context(folder, made.corpus)
    with pytest.raises(MistudioError) as caught:
        job.run(asked(made, **fields), found)
    assert not any(record.kind in ("codes", "features") for record in found.artifacts)
    return caught.value


def test_what_does_not_fit_is_refused_with_both_sides(made, tmp_path):
    error = refused(made, tmp_path, model_name="wide")
    assert isinstance(error, InvalidInput) and "16 values" in error.message and "has 24" in error.message
    error = refused(made, tmp_path, hook_name="blocks.7.hook_resid_post")
    assert error.reason == "LAYER_OUT_OF_RANGE" and "0..2" in error.message
    error = refused(made, tmp_path, hook_name="blocks.1.hook_mlp_out_x")
    assert isinstance(error, InvalidInput) and "hook_resid_post" in error.message
    error = refused(made, tmp_path, hook_name="h.1.mlp.nothing")
    assert "h.1.mlp" in error.message
    error = refused(made, tmp_path, sae_uri=changed(made, "nameless", hook_name=None))
    assert isinstance(error, InvalidInput) and error.problems[0].field == "hook_name"
    error = refused(made, tmp_path, hook_name="h.1.attn.c_attn")
    assert "48" in error.message and "16" in error.message


def test_an_sae_that_does_not_belong_to_its_hook_is_refused(made, tmp_path):
    folder = made.models / "foreign"
    own = read_sae(made.models / "saelens")
    own.sae.b_dec_D.add_(40.0)
    write_sae(own.sae, folder, "saelens", own.metadata)
    error = refused(made, tmp_path, sae_uri="foreign")
    assert (
        isinstance(error, InvalidInput) and "worse than their mean" in error.message and float(error.facts["fvu"]) > 1
    )


def test_damaged_and_foreign_files_are_refused(made, tmp_path):
    folder = made.models / "damaged"
    shutil.copytree(made.models / "saelens", folder)
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert isinstance(refused(made, tmp_path, sae_uri="damaged"), InvalidInput)
    (made.models / "empty").mkdir()
    assert "No SAE is recognised" in refused(made, tmp_path, sae_uri="empty").message
    assert isinstance(refused(made, tmp_path, sae_uri="not-there"), NotFound)
    outside = made.folder / "outside"
    shutil.copytree(made.models / "saelens", outside)
    for uri in ("../outside", str(outside), "/etc/passwd"):
        assert isinstance(refused(made, tmp_path, sae_uri=uri), NotFound)
    (made.models / "link").symlink_to(outside)
    assert isinstance(refused(made, tmp_path, sae_uri="link"), NotFound)


def test_too_little_memory_is_said_before_weights_are_read(made, tmp_path, monkeypatch):
    monkeypatch.setattr(imported_codes, "available_bytes", lambda: 1 << 20)
    error = refused(made, tmp_path)
    assert isinstance(error, LimitReached) and error.reason == "INSUFFICIENT_MEMORY"


def test_a_file_stands_for_its_folder(made, tmp_path):
    config = asked(made, sae_uri="saelens/sae_weights.safetensors")
    assert imported_sae.load(config, context(tmp_path, made.corpus)).origin["format"] == "saelens"
    by_name = replace(config, sae_uri="saelens", model_root=None, sae_root=made.models)
    assert imported_sae.load(by_name, context(tmp_path, made.corpus)).sae.shape.d_sae == 32


def test_a_transcoder_is_compared_with_the_hook_that_it_writes(made, tmp_path):
    sae = make_sae(SaeShape(architecture="standard", d_in=16, d_sae=20, d_out=16)).eval().requires_grad_(False)
    sae.b_dec_D.add_(40.0)
    metadata = SaeMetadata(hook_name="blocks.1.hook_resid_pre", hook_name_out="blocks.1.hook_mlp_out")
    write_sae(sae, made.models / "transcoder", "saelens", metadata)
    error = refused(made, tmp_path, sae_uri="transcoder")
    assert "blocks.1.hook_mlp_out unexplained" in error.message and error.facts["hook_name"].endswith("resid_pre")
