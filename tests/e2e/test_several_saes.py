"""Several SAEs in one job, hooks other than the residual stream, transcoders: through gRPC to the result."""

from __future__ import annotations

import pytest
from mistudio.feature.v1 import sae_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.job.v1 import job_pb2
from mistudio.train.v1 import train_service_pb2

from mistudio_core.errors import InvalidInput
from tests.e2e.conftest import Pipeline, training
from tests.support import tinymodels


@pytest.fixture(scope="module", autouse=True)
def corpus(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A corpus of this file's own: other tests of the folder may delete theirs."""
    path = tmp_path_factory.mktemp("several") / "several.txt"
    path.write_text("\n".join(tinymodels.sentences(400)))
    pipeline.client.upload_corpus(path)


def ended(pipeline: Pipeline, job_id: str) -> None:
    """Waits for a job to complete."""
    last = list(pipeline.client.watch(job_id))[-1].finished
    assert last.status == job_pb2.JOB_STATUS_COMPLETED, last


def result_of(
    pipeline: Pipeline, request: train_service_pb2.StartTrainingRequest
) -> train_service_pb2.GetTrainingResultResponse:
    """The result of a training job on the folder's home."""
    job_id = pipeline.client.train.StartTraining(request).job_id
    ended(pipeline, job_id)
    return pipeline.client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))


def test_a_sweep_has_a_result_for_each_and_find_takes_one(pipeline: Pipeline):
    sweep = train_service_pb2.Sweep(widths=[48, 64], seeds=[0, 1])
    result = result_of(pipeline, training(corpus_file="several.txt", max_epochs=1, sweep=sweep))
    assert [s.name for s in result.saes] == ["width48_seed0", "width48_seed1", "width64_seed0", "width64_seed1"]
    assert len({s.sae_sha256 for s in result.saes}) == 4 and all(s.training_stats.fvu > 0 for s in result.saes)
    uris = {a.uri.partition(result.job_id)[2] for a in result.artifacts}
    kinds = ("sae", "codes", "metadata", "curves")
    assert {f"/{s.name}/{kind}" for s in result.saes for kind in kinds} <= uris
    with pytest.raises(InvalidInput, match="width48_seed1") as refusal:
        pipeline.client.find.StartFind(find_service_pb2.StartFindRequest(training_job_id=result.job_id))
    assert refusal.value.problems[0].field == "sae_name"
    request = find_service_pb2.StartFindRequest(training_job_id=result.job_id, sae_name="width48_seed1")
    job_id = pipeline.client.find.StartFind(request).job_id
    ended(pipeline, job_id)
    found = pipeline.client.find.GetFindResult(find_service_pb2.GetFindResultRequest(job_id=job_id))
    assert found.total_features == 48 and found.sae_sha256 == result.saes[1].sae_sha256


def test_a_transcoder_of_an_mlp_and_its_loss_recovered(pipeline: Pipeline):
    request = training(
        corpus_file="several.txt", max_epochs=1, hook=sae_pb2.HOOK_MODULE, module_path="layers.1.mlp.input"
    )
    request.ClearField("layer_number")
    request.output_hook_name = "blocks.1.hook_mlp_out"
    result = result_of(pipeline, request)
    (sae,) = result.saes
    assert (sae.hook_name, sae.output_hook_name) == ("layers.1.mlp.input", "blocks.1.hook_mlp_out")
    assert result.training_stats.HasField("kl_divergence") and result.training_stats.splice.tokens > 0
    assert result.model_path.endswith(f"{result.job_id}/sae/sae_weights.safetensors")
