"""What is known about a job from the events of its watch: the state that every rendering shows.

`JobView.apply` folds one event in and says what a person should read about it, if anything. Rates
come from the times in the events, so that the same events always give the same view.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mistudio_cli.output import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from mistudio.artifact.v1 import artifact_pb2
    from mistudio.job.v1 import job_event_pb2, job_pb2

_SMOOTHING = 0.3
_SHOWN = (
    ("loss", "loss", "{:.4g}"),
    ("current_loss", "fvu", "{:.3f}"),
    ("l0", "L0", "{:.1f}"),
    ("explained_variance", "EV", "{:.3f}"),
    ("dead_features", "dead", "{:.0f}"),
)
TERMINAL = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class JobView:
    """One job."""

    job_id: str
    """Its id."""
    title: str
    """What to call it, for example `train`."""
    status: str = ""
    """Short name of its state; empty before the first event."""
    stage: str = ""
    """What is being done."""
    fraction: float = 0.0
    """Share of the whole job, 0 to 1."""
    current: float = 0.0
    """Units done in this stage."""
    total: float = 0.0
    """Units in this stage; 0 where unknown."""
    unit: str = ""
    """The unit."""
    remaining: float | None = None
    """Estimated seconds to the end."""
    rate: float = 0.0
    """Units a second; 0 where unknown."""
    note: str = ""
    """Why it waits, or what it said last."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Latest figures."""
    error: tuple[str, str] | None = None
    """Reason and message of a failure."""
    finished: bool = False
    """Whether the terminal event came."""
    _rate_from: tuple[str, float, float] | None = None

    def apply(self, event: job_event_pb2.JobEvent) -> str | None:
        """Takes one event in; what to tell about it where it is durable, else None."""
        told: str | None = None
        match event.WhichOneof("event"):
            case "snapshot":
                self._snapshot(event.snapshot)
            case "progress":
                self._progress(event.progress, event.time.ToNanoseconds() / 1e9)
            case "metric":
                self.metrics |= {v.name: v.value for v in event.metric.values}
                told = f"step {event.metric.step}: {self.figures()}"
            case "state":
                told = self._state(event.state)
            case "attempt_change":
                told = _attempt(event.attempt_change)
            case "checkpoint":
                told = _artifact("checkpoint", event.checkpoint)
            case "artifact":
                told = _artifact("artifact", event.artifact)
            case "log":
                told = self.note = event.log.message
            case "finished":
                told = self._finished(event.finished)
        return told

    def figures(self) -> str:
        """The latest figures on one line: loss, L0, explained variance, dead features."""
        known = (f"{label} {form.format(self.metrics[name])}" for name, label, form in _SHOWN if name in self.metrics)
        return "  ".join(known)

    def amount(self) -> str:
        """Units done and the rate: `120k/1.2M tokens, 8.1k/s`."""
        if not self.unit and not self.total:
            return ""
        done = count_text(self.current) + (f"/{count_text(self.total)}" if self.total else "")
        rate = f", {count_text(self.rate)}/s" if self.rate > 0 else ""
        return f"{done} {self.unit}".rstrip() + rate

    def eta(self) -> str:
        """Estimated time to the end; empty while unknown."""
        return "" if self.remaining is None or self.finished else f"ETA {seconds_text(self.remaining)}"

    def _snapshot(self, job: job_pb2.Job) -> None:
        self.status = status_name(job.status)
        self.note = job.queue_reason
        if job.HasField("progress"):
            self._progress(job.progress, None)
        self.metrics |= {v.name: v.value for v in job.metrics.values}
        if job.HasField("error"):
            self.error = (job.error.reason, job.error.message)

    def _progress(self, progress: job_pb2.Progress, now: float | None) -> None:
        self.stage, self.unit = progress.stage, progress.unit
        self.fraction, self.total = progress.fraction, progress.total
        known = progress.HasField("estimated_time_remaining")
        self.remaining = progress.estimated_time_remaining if known else None
        self.note = progress.message or self.note
        if now is not None:
            self._measure(progress.stage, progress.current, now)
        self.current = progress.current

    def _measure(self, stage: str, current: float, now: float) -> None:
        """Updates the smoothed rate; another stage, or a step back, starts over."""
        before = self._rate_from
        if before is None or before[0] != stage or current < before[1]:
            self._rate_from, self.rate = (stage, current, now), 0.0
            return
        seconds = now - before[2]
        if seconds < 0.2:
            return
        sample = (current - before[1]) / seconds
        self.rate = sample if self.rate == 0 else self.rate + _SMOOTHING * (sample - self.rate)
        self._rate_from = (stage, current, now)

    def _state(self, change: job_event_pb2.StateChange) -> str:
        self.status = status_name(change.status)
        waits = self.status in ("queued", "paused")
        self.note = change.message or (self.note if waits else "")
        return f"state {self.status}" + (f": {change.message}" if change.message else "")

    def _finished(self, end: job_event_pb2.JobFinished) -> str:
        self.status, self.finished, self.note = status_name(end.status), True, ""
        if end.HasField("error"):
            self.error = (end.error.reason, end.error.message)
            return f"finished: {self.status}: {end.error.reason}: {end.error.message}"
        if self.status == "completed":
            self.fraction = 1.0
        return f"finished: {self.status}"


def status_name(status: int) -> str:
    """The short name of a state: `running`."""
    from mistudio.job.v1 import job_pb2

    return job_pb2.JobStatus.Name(job_pb2.JobStatus.ValueType(status)).removeprefix("JOB_STATUS_").lower()


def _attempt(change: job_event_pb2.AttemptChange) -> str:
    what = "began" if change.began else "ended"
    where = f" on {change.device}" if change.began and change.device else ""
    why = f": {change.message}" if change.message else ""
    return f"attempt {change.attempt} {what}{where}{why}"


def _artifact(kind: str, reference: artifact_pb2.ArtifactReference) -> str:
    step = f" at step {reference.step}" if reference.step else ""
    return f"{kind} {reference.uri}{step} ({bytes_text(reference.size_bytes)})"
