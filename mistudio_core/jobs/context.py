"""What a running job sees of the world: the one interface between domain code and the runtime.

`job.run(config, ctx)` gets a JobContext from the worker process, from a test or from an example;
it never learns whether a service is behind it. The worker's context reports over gRPC
(mistudio_rpc); `LocalContext` (local.py) keeps everything in memory and on a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactWriter
from mistudio_core.secret import Secret


class JobContext(Protocol):
    """The runtime as a job sees it. All calls are cheap unless they say otherwise."""

    @property
    def job_id(self) -> str:
        """Id of the job."""
        ...

    @property
    def device(self) -> str:
        """Device leased to the attempt: `cpu:0`, `cuda:1`."""
        ...

    @property
    def scratch(self) -> Path:
        """A folder of this attempt's own, empty at the start and removed at the end."""
        ...

    @property
    def kept(self) -> Path:
        """A folder of the job's own that outlives a killed attempt; removed when the job ends."""
        ...

    def input(self, name: str) -> ArtifactReader:
        """An input artifact by its role: `corpus`, `sae`, `codes`, `metadata`, `features`. Raises Corrupt."""
        ...

    def committed(self, kind: str) -> ArtifactReader | None:
        """The newest artifact of a kind that this job committed, in this attempt or an earlier one; None for none.

        Not for checkpoints. Raises Corrupt.
        """
        ...

    def secret(self, name: str) -> Secret | None:
        """A secret of the job, for example `huggingface_token`; None where none was given."""
        ...

    def latest_checkpoint(self) -> ArtifactReader | None:
        """The newest committed checkpoint that verifies; None where there never was one.

        Raises Corrupt (CHECKPOINT_LOST) where there were some and every one is damaged.
        """
        ...

    def progress(
        self,
        stage: str,
        *,
        fraction: float,
        current: float = 0.0,
        total: float = 0.0,
        unit: str = "",
        remaining_s: float | None = None,
        message: str = "",
    ) -> None:
        """Reports how far the whole job is (`fraction` 0..1); may be merged, so call it freely."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Reports figures of a step; kept at most once a second. Non-finite values are left out."""
        ...

    def log(self, message: str, *, level: str = "info") -> None:
        """A line for people: `info`, `warning` or `error`."""
        ...

    def stage_artifact(self, name: str, kind: str, *, step: int = 0) -> ArtifactWriter:
        """Begins an artifact of this job; its URI is made from the kind, the job id and `name`.

        Raises Cancelled, DiskFull.
        """
        ...

    def commit(self, writer: ArtifactWriter) -> ArtifactRecord:
        """Seals a staged artifact and records it; returns once the record is durable.

        A checkpoint so committed is what the next attempt resumes from; older ones are pruned by
        the service. Raises DiskFull, StaleAttempt.
        """
        ...

    def check_cancelled(self) -> None:
        """Raises Cancelled once a cancel was asked for; call it at least once a second."""
        ...

    def checkpoint_wanted(self) -> bool:
        """Whether to commit a checkpoint as soon as one can be: the worker is about to be ended."""
        ...


_URI_BASE = {
    "corpus": "samples",
    "sae": "models",
    "checkpoint": "models",
    "curves": "models",
    "codes": "activations",
    "metadata": "activations",
    "features": "find",
    "export": "find",
    "explanations": "explain",
    "report": "explain",
}


def artifact_uri(job_id: str, kind: str, name: str) -> str:
    """The logical URI of a job's artifact, for example `/data/models/train_.../sae`."""
    return f"/data/{_URI_BASE[kind]}/{job_id}/{name}"
