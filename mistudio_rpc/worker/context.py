"""The JobContext of a worker process: artifacts on the shared folder, everything else by the reporter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.errors import Cancelled, Corrupt, StaleAttempt
from mistudio_core.failpoints import failpoint
from mistudio_core.home import Home
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.records import LogWritten, MetricSampled, ProgressRecord
from mistudio_core.secret import Secret
from mistudio_rpc.worker.reporter import Reporter


class WorkerContext:
    """See mistudio_core.jobs.context.JobContext."""

    def __init__(self, spec: Mapping[str, Any], reporter: Reporter) -> None:
        """From the job that the launcher sent."""
        self.job_id = str(spec["job_id"])
        self.device = str(spec["device"])
        self.home = Home(Path(spec["home"]))
        self.scratch = Path(spec["scratch"])
        self.kept = self.scratch.parent / "kept"
        self._attempt = int(spec["attempt"])
        self._reporter = reporter
        self._store = ArtifactStore(self.home.artifacts, str(spec["area"]))
        self._inputs = {role: _reference(value) for role, value in spec["inputs"].items()}
        self._checkpoints = [_reference(value) for value in spec["checkpoints"]]
        self._committed = [_reference(value) for value in spec["committed"]]
        self._secrets = {name: Secret(value) for name, value in spec["secrets"].items()}

    def input(self, name: str) -> ArtifactReader:
        """See JobContext."""
        record, sha256 = self._inputs[name]
        return self._store.open(record, sha256)

    def committed(self, kind: str) -> ArtifactReader | None:
        """See JobContext."""
        found = [(record, sha256) for record, sha256 in self._committed if record.kind == kind]
        return self._store.open(*found[-1]) if found else None

    def secret(self, name: str) -> Secret | None:
        """See JobContext."""
        return self._secrets.get(name)

    def latest_checkpoint(self) -> ArtifactReader | None:
        """See JobContext."""
        for record, sha256 in self._checkpoints:
            try:
                reader = self._store.open(record, sha256)
                for file in record.files:
                    reader.path(file.name)
            except Corrupt as error:
                self.log(f"checkpoint discarded: {error.message}", level="warning")
                continue
            return reader
        if self._checkpoints:
            raise Corrupt(
                "Every checkpoint of the job is damaged, and it is not started again from nothing by itself. "
                "Start a new job.",
                reason="CHECKPOINT_LOST",
            )
        return None

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
        """See JobContext."""
        remaining = remaining_s if remaining_s is not None and math.isfinite(remaining_s) else None
        self._reporter.progress(
            ProgressRecord(
                stage=stage[:100],
                fraction=min(max(fraction, 0.0), 1.0),
                current=current,
                total=total,
                unit=unit[:40],
                remaining_s=remaining,
                message=message[:1000],
            )
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See JobContext."""
        finite = {name: float(value) for name, value in list(values.items())[:100] if math.isfinite(value)}
        self._reporter.metric(MetricSampled(step=step, values=finite))

    def log(self, message: str, *, level: str = "info") -> None:
        """See JobContext."""
        self._reporter.log_line(LogWritten(message=message[:4000], level=level))

    def stage_artifact(self, name: str, kind: str, *, step: int = 0) -> ArtifactWriter:
        """See JobContext."""
        self.check_cancelled()
        uri = artifact_uri(self.job_id, kind, name)
        return self._store.stage(uri, kind, job_id=self.job_id, attempt=self._attempt, step=step)

    def commit(self, writer: ArtifactWriter) -> ArtifactRecord:
        """See JobContext."""
        record = writer.seal()
        failpoint(f"{record.kind}.before_commit")
        self._reporter.commit(record)
        failpoint(f"{record.kind}.after_commit")
        self._committed.append((record, record.sha256))
        return record

    def check_cancelled(self) -> None:
        """See JobContext."""
        if self._reporter.lost:
            raise StaleAttempt("This worker lost its job.")
        if self._reporter.cancel_requested:
            raise Cancelled

    def checkpoint_wanted(self) -> bool:
        """See JobContext."""
        return self._reporter.checkpoint_wanted


def _reference(value: Mapping[str, str]) -> tuple[ArtifactRecord, str]:
    return ArtifactRecord.parse(value["manifest"].encode(), value["folder"]), value["sha256"]
