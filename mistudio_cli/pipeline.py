"""Train, Find and Explain as one submission: all three jobs exist at once, each waiting for the one before.

So nothing depends on the submitting process: it may end at any time after `submit`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio_core.errors import MistudioError

if TYPE_CHECKING:
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2
    from mistudio.train.v1 import train_service_pb2

    from mistudio_rpc.client import Client


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """The three jobs."""

    train: str
    """Job id of the training."""
    find: str
    """Job id of the analysis."""
    explain: str
    """Job id of the explanations."""
    message: str
    """What Train said on acceptance."""

    def jobs(self) -> list[tuple[str, str]]:
        """Titles and ids, in order."""
        return [("train", self.train), ("find", self.find), ("explain", self.explain)]

    def ids(self) -> dict[str, str]:
        """Ids by title."""
        return dict(self.jobs())


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What the three completed jobs answer."""

    train: train_service_pb2.GetTrainingResultResponse
    """The training's result."""
    find: find_service_pb2.GetFindResultResponse
    """The analysis's summary."""
    explain: explain_service_pb2.GetExplainResultResponse
    """The run's summary."""
    best: explain_service_pb2.ListExplanationsResponse
    """The best explanations."""


def submit(
    client: Client,
    training: train_service_pb2.StartTrainingRequest,
    find: find_service_pb2.StartFindRequest,
    explain: explain_service_pb2.StartExplainRequest,
) -> Pipeline:
    """Starts all three; the ids of the jobs before are filled in here.

    Raises what the services raise; the jobs that were started before are cancelled then.
    """
    base = training.request_id
    trained = client.train.StartTraining(training)
    started = [trained.job_id]
    try:
        find.training_job_id, find.wait_for_training = trained.job_id, True
        find.request_id = f"{base}-find"
        found = client.find.StartFind(find)
        started.append(found.job_id)
        explain.find_job_id, explain.wait_for_find = found.job_id, True
        explain.request_id = f"{base}-explain"
        explained = client.explain.StartExplain(explain)
    except MistudioError as error:
        _take_back(client, started)
        error.args = (f"{error.message} Nothing was started: {', '.join(started)} cancelled.",)
        error.message = error.args[0]
        raise
    return Pipeline(train=trained.job_id, find=found.job_id, explain=explained.job_id, message=trained.message)


def _take_back(client: Client, job_ids: list[str]) -> None:
    """Cancels jobs, the last first, so that none fails for want of another."""
    from mistudio.job.v1 import job_service_pb2

    for job_id in reversed(job_ids):
        with contextlib.suppress(MistudioError):
            client.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id))


def results(client: Client, pipeline: Pipeline, *, best: int) -> Results:
    """The results of three completed jobs, with the `best` explanations."""
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2
    from mistudio.train.v1 import train_service_pb2

    page = explain_service_pb2.ListExplanationsRequest(job_id=pipeline.explain, page_size=best)
    return Results(
        train=client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=pipeline.train)),
        find=client.find.GetFindResult(find_service_pb2.GetFindResultRequest(job_id=pipeline.find)),
        explain=client.explain.GetExplainResult(explain_service_pb2.GetExplainResultRequest(job_id=pipeline.explain)),
        best=client.explain.ListExplanations(page),
    )


def corpus_name(client: Client, corpus: str) -> str:
    """The uploaded name of a corpus: a file or folder of this machine is uploaded first, else it is a name already."""
    from mistudio_cli.upload import send

    path = Path(corpus).expanduser()
    return send(client, path).filename if path.is_file() or path.is_dir() else corpus
