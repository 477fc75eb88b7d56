"""Scripted events through every display: bars on a terminal, lines on a pipe, JSON lines."""

from __future__ import annotations

import io
import json

from google.protobuf import timestamp_pb2
from mistudio.job.v1 import job_event_pb2, job_pb2
from rich.console import Console

from mistudio_cli import render
from mistudio_cli.jobview import JobView
from mistudio_cli.render import JsonDisplay, LineDisplay, LiveDisplay

JOB = "train_20260101_000000_0011223344556677"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def event(kind: str, at: float = 0.0, sequence: int = 0, **fields: object) -> job_event_pb2.JobEvent:
    whole, part = int(at), round((at - int(at)) * 1e9)
    made = job_event_pb2.JobEvent(
        job_id=JOB, sequence=sequence, time=timestamp_pb2.Timestamp(seconds=whole, nanos=part)
    )
    target = getattr(made, kind)
    target.SetInParent()
    target.MergeFrom(type(target)(**fields))
    return made


def progress(at: float, tokens: float) -> job_event_pb2.JobEvent:
    return event(
        "progress",
        at,
        stage="harvest and train",
        fraction=tokens / 1000,
        current=tokens,
        total=1000,
        unit="tokens",
        estimated_time_remaining=75.0,
    )


def metric(step: int, **values: float) -> job_event_pb2.JobEvent:
    pairs = [job_pb2.MetricValue(name=name, value=value) for name, value in values.items()]
    return event("metric", sequence=step, step=step, values=pairs)


def script() -> list[job_event_pb2.JobEvent]:
    return [
        event("snapshot", job_id=JOB, status=job_pb2.JOB_STATUS_QUEUED, queue_reason="waits for a free device"),
        event("state", sequence=1, status=job_pb2.JOB_STATUS_RUNNING),
        event("attempt_change", sequence=2, attempt=1, began=True, device="cpu:0"),
        progress(10, 100),
        metric(3, loss=0.5, l0=32, explained_variance=0.81, dead_features=7),
        progress(12, 300),
        event("heartbeat"),
        event("checkpoint", sequence=4, uri="/data/models/x/checkpoints/1", step=12, size_bytes=18_900_000),
        event("finished", sequence=5, status=job_pb2.JOB_STATUS_COMPLETED),
    ]


def lines(events: list[job_event_pb2.JobEvent], clock: Clock | None = None, pause: float = 0.0) -> list[str]:
    written: list[str] = []
    display = LineDisplay([JobView(job_id=JOB, title="train")], written.append)
    with display:
        for item in events:
            if clock is not None:
                clock.now += pause
            display.event(item)
    return written


def test_a_pipe_gets_every_durable_event_as_a_line():
    text = "".join(lines(script()))
    for part in ("waits for a free device", "state running", "attempt 1 began on cpu:0", "finished: completed"):
        assert part in text
    assert "checkpoint /data/models/x/checkpoints/1 at step 12 (18.9 MB)" in text
    assert "\x1b" not in text


def test_figures_on_a_pipe_come_at_most_every_two_seconds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(render, "clock", clock)
    written = lines([progress(i / 4, 10 + i) for i in range(41)], clock, pause=0.25)
    assert len(written) == 6  # 10 s: the first, then one every 2 s


def test_a_line_shows_stage_rate_figures_and_time_left(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(render, "clock", clock)
    last = lines(
        [metric(1, loss=0.5, l0=32, explained_variance=0.81, dead_features=7), *map(progress, (10, 12), (100, 300))],
        clock,
        2.0,
    )[-1]
    for part in ("30%", "harvest and train", "300/1k tokens, 100/s", "loss 0.5", "L0 32.0", "EV 0.810", "dead 7"):
        assert part in last
    assert "ETA 1 min 15 s" in last


def test_a_terminal_gets_a_bar_with_the_same_facts():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160, height=20, color_system=None)
    display = LiveDisplay([JobView(job_id=JOB, title="train")], console)
    with display:
        for item in script()[:7]:
            display.event(item)
        drawn = Console(file=io.StringIO(), width=160, record=True)
        drawn.print(display.picture())
    text = drawn.export_text()
    for part in ("train", "running", "━", "30%", "harvest and train", "100/s", "L0 32.0", "ETA"):
        assert part in text
    assert "\x1b[" in out.getvalue()  # it redraws in place


def test_a_failure_is_told_with_its_reason():
    error = job_pb2.JobError(reason="NON_FINITE_LOSS", message="The loss became NaN.")
    view = JobView(job_id=JOB, title="train")
    told = view.apply(event("finished", status=job_pb2.JOB_STATUS_FAILED, error=error))
    assert told == "finished: failed: NON_FINITE_LOSS: The loss became NaN."
    assert view.finished
    assert view.error == ("NON_FINITE_LOSS", "The loss became NaN.")


def test_log_lines_cannot_steer_a_terminal():
    evil = event("log", sequence=1, level=job_event_pb2.LOG_LEVEL_INFO, message="ok\x1b]0;owned\x07\r\nnext")
    assert lines([evil]) == ["train  ok ]0;owned next\n"]


def test_json_is_one_object_a_line_without_heartbeats(capsys):
    with JsonDisplay([JobView(job_id=JOB, title="train")]) as display:
        for item in script():
            display.event(item)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == len(script()) - 1
    assert found[0]["snapshot"]["status"] == "queued"
    assert [f["sequence"] for f in found if f["sequence"]] == [1, 2, 3, 4, 5]


def test_the_rate_starts_over_with_a_stage():
    view = JobView(job_id=JOB, title="train")
    view.apply(progress(10, 100))
    view.apply(progress(11, 200))
    assert view.rate == 100
    view.apply(event("progress", 12, stage="evaluating", current=5))
    assert view.rate == 0
