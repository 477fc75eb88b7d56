"""A JobContext without a service: for tests, examples and notebooks.

Keeps reports in lists and artifacts on a folder; a checkpoint committed by one LocalContext is
found by the next one on the same folder, so that resume can be tried without processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.errors import Cancelled, Corrupt
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.secret import Secret


class LocalContext:
    """Runs `job.run(config, ctx)` in this process."""

    def __init__(
        self,
        folder: Path,
        *,
        job_id: str = "local_20250101_000000_00000000",
        device: str = "cpu:0",
        inputs: Mapping[str, ArtifactReader] | None = None,
        secrets: Mapping[str, Secret] | None = None,
    ) -> None:
        """`folder` holds artifacts and scratch; `inputs` are the job's input artifacts by role."""
        self.store = ArtifactStore(folder / "artifacts")
        self.job_id = job_id
        self.device = device
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.kept = folder / "kept"
        self.kept.mkdir(exist_ok=True)
        self.cancelled = False
        self.artifacts: list[ArtifactRecord] = _existing(self.store, job_id)
        self.progress_reports: list[tuple[str, float]] = []
        self.metric_reports: list[tuple[int, dict[str, float]]] = []
        self.log_lines: list[tuple[str, str]] = []
        self._inputs = dict(inputs or {})
        self._secrets = dict(secrets or {})

    def input(self, name: str) -> ArtifactReader:
        """See JobContext."""
        return self._inputs[name]

    def committed(self, kind: str) -> ArtifactReader | None:
        """See JobContext."""
        found = [a for a in self.artifacts if a.kind == kind]
        return self.store.open(found[-1]) if found else None

    def secret(self, name: str) -> Secret | None:
        """See JobContext."""
        return self._secrets.get(name)

    def latest_checkpoint(self) -> ArtifactReader | None:
        """See JobContext."""
        checkpoints = sorted((a for a in self.artifacts if a.kind == "checkpoint"), key=lambda a: -a.step)
        for record in checkpoints:
            reader = self.store.open(record)
            try:
                for file in record.files:
                    reader.path(file.name)
            except Corrupt as error:
                self.log(error.message, level="warning")
                continue
            return reader
        if checkpoints:
            raise Corrupt("Every checkpoint of the job is damaged.", reason="CHECKPOINT_LOST")
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
        self.progress_reports.append((stage, fraction))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See JobContext."""
        self.metric_reports.append((step, {k: v for k, v in values.items() if math.isfinite(v)}))

    def log(self, message: str, *, level: str = "info") -> None:
        """See JobContext."""
        self.log_lines.append((level, message))

    def stage_artifact(self, name: str, kind: str, *, step: int = 0) -> ArtifactWriter:
        """See JobContext."""
        return self.store.stage(artifact_uri(self.job_id, kind, name), kind, job_id=self.job_id, attempt=1, step=step)

    def commit(self, writer: ArtifactWriter) -> ArtifactRecord:
        """See JobContext."""
        record = writer.seal()
        self.artifacts.append(record)
        return record

    def check_cancelled(self) -> None:
        """See JobContext."""
        if self.cancelled:
            raise Cancelled

    def checkpoint_wanted(self) -> bool:
        """See JobContext: nobody ends it."""
        return False

    def reader(self, name: str) -> ArtifactReader:
        """Opens an artifact that this job committed, by the last part of its URI."""
        record = next(a for a in reversed(self.artifacts) if a.uri.endswith(f"/{name}"))
        return self.store.open(record)


def _existing(store: ArtifactStore, job_id: str) -> list[ArtifactRecord]:
    """Artifacts of the job that earlier contexts on the same folder committed."""
    manifests = store.root.glob("*/*/manifest.json")
    records = [ArtifactRecord.parse(m.read_bytes(), str(m.parent.relative_to(store.root))) for m in manifests]
    return [r for r in records if r.job_id == job_id]
