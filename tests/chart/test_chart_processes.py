"""The rendered containers as real processes: the pipeline runs through their gateway, and SIGTERM costs nothing."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mistudio.explain.v1 import explain_service_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.job.v1 import job_pb2, job_service_pb2

from mistudio_core.errors import MistudioError
from mistudio_core.secret import Secret
from mistudio_rpc.channel import Tls
from mistudio_rpc.client import Client
from tests.chart import charts
from tests.chart.pods import Container, containers, running
from tests.e2e.conftest import training
from tests.support import tinymodels

TOKEN = "0123456789abcdef" * 4


def held(*kinds: str) -> charts.Values:
    """Environment through the chart's own `env`: workers stop short of these until the pod is started without it."""
    points = ";".join(f"{kind}.before_fsync=sleep:900" for kind in kinds)
    return {"MISTUDIO_FAILPOINTS": points, "NUMBA_CACHE_DIR": ""}  # what other tests compiled is not compiled again


@dataclass
class Installation:
    """A running release and a client outside of it."""

    containers: dict[str, Container]
    client: Client
    http: httpx.Client
    corpus: Path

    def train(self, **fields: object) -> str:
        """Starts a training job on the tiny model."""
        return self.client.train.StartTraining(training(corpus_file=self.corpus.name, **fields)).job_id

    def find(self, training_job_id: str) -> str:
        request = find_service_pb2.StartFindRequest(training_job_id=training_job_id, wait_for_training=True)
        return self.client.find.StartFind(request).job_id

    def explain(self, find_job_id: str) -> str:
        request = explain_service_pb2.StartExplainRequest(find_job_id=find_job_id, wait_for_find=True)
        return self.client.explain.StartExplain(request).job_id

    def job(self, job_id: str) -> job_pb2.Job:
        return self.client.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id)).job

    def wait_for(self, job_id: str, status: job_pb2.JobStatus.ValueType) -> job_pb2.Job:
        """The job once it has a status. Fails where it ended in another one."""
        ends = time.monotonic() + 60
        while (job := self.job(job_id)).status != status:
            assert not job.HasField("completed_at"), job
            assert time.monotonic() < ends, job
            time.sleep(0.05)
        return job

    def wait_for_checkpoint(self, job_id: str) -> None:
        """Returns once the running job has something to go on from."""
        ends = time.monotonic() + 60
        while not self.job(job_id).last_checkpoint:
            assert time.monotonic() < ends, self.job(job_id)
            time.sleep(0.05)

    def check_history(self, job_id: str, attempts: int) -> None:
        """It completed in so many attempts, and no event of its history is missing."""
        job = self.wait_for(job_id, job_pb2.JOB_STATUS_COMPLETED)
        durable = [event.sequence for event in self.client.watch(job_id) if event.sequence]
        assert job.attempt == attempts
        assert sorted(set(durable)) == list(range(1, job.last_sequence + 1))


def secrets(folder: Path, values: charts.Values) -> dict[str, dict[str, bytes]]:
    """What an administrator puts into the cluster: the token, and what `certificates.sh` makes."""
    script = charts.ROOT / "deploy" / "docker" / "certificates.sh"
    subprocess.run([script, folder, charts.RELEASE, charts.NAMESPACE], check=True, capture_output=True, timeout=60)
    certificate = {name: (folder / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
    return {values["auth"]["existingSecret"]: {"token": TOKEN.encode()}, values["tls"]["existingSecret"]: certificate}


def installed(folder: Path, profile: str, environment: charts.Values) -> Iterator[Installation]:
    # what is held writes no checkpoint, and is not waited for
    own = {"env": environment, "hub": {"enabled": False}, "checkpointSeconds": 0.5}
    values = charts.merged(charts.values_of(charts.FILES[profile]), own)
    made = containers(values, folder, secrets(folder / "certificates", values))
    models = folder / "claims" / f"{charts.RELEASE}-{'shared' if profile == 'services' else 'embedded'}" / "models"
    tinymodels.make(models / "tiny", "llama", layers=3)
    corpus = folder / "small.txt"
    corpus.write_text("\n".join(tinymodels.sentences(400)))
    ca = folder / "certificates" / "ca.crt"
    entry = made["gateway" if profile == "services" else "embedded"]
    with running(made):
        url = f"https://127.0.0.1:{entry.ports[8001]}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with (
            Client(f"127.0.0.1:{entry.ports[50051]}", Secret(TOKEN), tls=Tls(authority=ca)) as client,
            httpx.Client(
                base_url=url, headers=headers, verify=ssl.create_default_context(cafile=ca), timeout=30
            ) as http,
        ):
            client.upload_corpus(corpus)
            yield Installation(made, client, http, corpus)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    environment = held("sae", "features", "explanations")
    yield from installed(tmp_path_factory.mktemp("services"), "services", environment)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    yield from installed(tmp_path_factory.mktemp("embedded"), "embedded", held("features"))


def restart(container: Container) -> None:
    """SIGTERM within the rendered grace, as an upgrade sends it, and a new pod on the same volumes."""
    assert container.stop() == 0, container.log.read_text()[-3000:]
    container.extra = {"MISTUDIO_FAILPOINTS": ""}
    container.start()


def test_the_pipeline_runs_and_every_process_may_be_stopped_while_it_does(services: Installation):
    train = services.train()
    chain = {"train": train, "find": services.find(train)}
    chain["explain"] = services.explain(chain["find"])
    services.wait_for_checkpoint(train)
    restart(services.containers["gateway"])
    assert services.job(train).status == job_pb2.JOB_STATUS_RUNNING
    acknowledged = services.train(request_id="a-job-behind-it")
    for name, job_id in chain.items():
        services.wait_for(job_id, job_pb2.JOB_STATUS_RUNNING)
        restart(services.containers[name])
        if name == "train":
            assert services.job(acknowledged).request_id == "a-job-behind-it"
            services.client.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=acknowledged))
        services.check_history(job_id, attempts=2)
    report = services.http.get(f"/api/v1/explain/{chain['explain']}/report.html")
    assert report.status_code == 200
    assert chain["train"] in report.text or "sparse" in report.text.lower()
    listed = services.http.get(f"/api/v1/jobs/{chain['find']}/artifacts").json()["artifacts"]
    assert {a["kind"] for a in listed} >= {"features"}


def test_services_write_into_areas_of_their_own_on_the_shared_volume(services: Installation):
    shared = services.containers["train"].folders["/var/lib/mistudio-shared"] / "artifacts"
    assert {p.name for p in shared.iterdir()} <= {"train", "find", "explain"}
    assert list(shared.glob("train/sae/*/manifest.json"))
    assert list(shared.glob("find/features/*/manifest.json"))


def test_a_service_answers_nobody_without_a_certificate(services: Installation):
    container = services.containers["train"]
    ca = container.folders["/etc/mistudio/tls"] / "ca.crt"
    address = f"127.0.0.1:{container.ports[50051]}"
    with (
        Client(address, Secret(TOKEN), tls=Tls(authority=ca), timeout=1) as stranger,
        pytest.raises(MistudioError) as caught,
    ):
        stranger.jobs.ListJobs(job_service_pb2.ListJobsRequest())
    assert caught.value.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_a_service_that_is_away_costs_only_its_own_calls(services: Installation):
    for container in services.containers.values():
        assert [container.answers(probe) for probe in ("startupProbe", "readinessProbe", "livenessProbe")] == [True] * 3
    find = services.containers["find"]
    assert find.stop() == 0
    assert not find.answers("livenessProbe")
    assert services.containers["gateway"].answers("readinessProbe")
    assert services.http.get("/api/v1/jobs").status_code == 200
    away = services.http.get("/api/v1/find/history")
    assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE"), away.text
    find.start()
    ends = time.monotonic() + 30
    while services.http.get("/api/v1/find/history").status_code != 200:  # the gateway tries again within 2 s
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_the_embedded_pod_runs_the_pipeline_and_may_be_stopped_while_it_does(embedded: Installation):
    train = embedded.train()
    find = embedded.find(train)
    explain = embedded.explain(find)
    embedded.wait_for(find, job_pb2.JOB_STATUS_RUNNING)
    restart(embedded.containers["embedded"])
    for job_id, attempts in ((train, 1), (find, 2), (explain, 1)):
        embedded.check_history(job_id, attempts)
    assert embedded.containers["embedded"].answers("readinessProbe")
