"""The runtime as a process sees it that trains along: it reads what the leader reads, and reports nothing.

A cancel reaches it by its end: the leader closes its standard input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactWriter
from mistudio_core.secret import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowingContext:
    """See JobContext."""

    job_id: str
    """Id of the job."""
    device: str
    """The leader's device."""
    scratch: Path
    """A folder of its own."""
    corpus: ArtifactReader
    """The one input."""
    checkpoint: ArtifactReader | None
    """The one that the leader resumes from."""
    token: Secret | None
    """Token for gated models."""

    @property
    def kept(self) -> Path:
        """See JobContext; a follower keeps nothing, the leader writes."""
        return self.scratch

    def input(self, name: str) -> ArtifactReader:
        """See JobContext."""
        if name != "corpus":
            raise KeyError(name)
        return self.corpus

    def committed(self, kind: str) -> ArtifactReader | None:
        """See JobContext."""
        return None

    def secret(self, name: str) -> Secret | None:
        """See JobContext."""
        return self.token

    def latest_checkpoint(self) -> ArtifactReader | None:
        """See JobContext."""
        return self.checkpoint

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
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def log(self, message: str, *, level: str = "info") -> None:
        """Nothing."""

    def stage_artifact(self, name: str, kind: str, *, step: int = 0) -> ArtifactWriter:
        """The leader alone writes."""
        raise RuntimeError("a following process writes nothing")

    def commit(self, writer: ArtifactWriter) -> ArtifactRecord:
        """The leader alone writes."""
        raise RuntimeError("a following process writes nothing")

    def check_cancelled(self) -> None:
        """Nothing: see the module."""

    def checkpoint_wanted(self) -> bool:
        """The leader alone is told."""
        return False
