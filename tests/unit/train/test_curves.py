"""Training curves: bounded, exact, resumed bit for bit."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistudio_core.errors import Corrupt
from mistudio_train.curves import CAPACITY, CurveRecorder


def filled(steps, capacity=CAPACITY, start=None, after=0):
    """A recorder of steps of 100 tokens with known figures; goes on from `start` after step `after`."""
    recorder = start or CurveRecorder(capacity)
    for step in range(after + 1, steps + 1):
        values = {"current_loss": 1 / step, "l0": float(step)}
        if step % 3 == 0:
            values["dead_features"] = float(step)
        recorder.add(step, 100 * step, values, seconds=step / 10)
    return recorder


@pytest.mark.parametrize("steps", (1, 7, 8, 9, 100, 1000, 1024, 5000))
def test_memory_is_bounded_and_means_are_exact(steps):
    points = filled(steps, capacity=8).points()
    assert len(points) <= 8 and (len(points) >= 4 or steps < 4)
    ends = [0, *(point.step for point in points)]
    assert ends[-1] == steps and ends == sorted(ends)
    assert len({b - a for a, b in itertools.pairwise(ends[:-1])}) <= 1, "all but the last stretch have one length"
    for point, (first, last) in zip(points, itertools.pairwise(ends), strict=True):
        inside = np.arange(first + 1, last + 1)
        assert (point.tokens, point.seconds) == (100 * last, last / 10)
        assert point.values["current_loss"] == pytest.approx(np.mean(1 / inside), rel=1e-12)
        assert point.values["l0"] == pytest.approx(inside.mean())
        third = inside[inside % 3 == 0]
        assert point.values.get("dead_features") == (pytest.approx(third.mean()) if len(third) else None)


@settings(max_examples=30, deadline=None)
@given(killed=st.integers(0, 300), steps=st.integers(300, 700))
def test_a_resumed_run_has_the_curves_of_one_that_never_stopped(killed, steps):
    state = json.loads(json.dumps(filled(killed, capacity=16).state()))
    resumed = filled(steps, start=CurveRecorder.of_state(state), after=killed)
    assert resumed.state() == filled(steps, capacity=16).state()
    assert resumed.points() == filled(steps, capacity=16).points()


def test_steps_that_were_seen_and_figures_that_are_none_are_left_out():
    recorder = filled(5)
    recorder.add(5, 500, {"l0": 99.0})
    recorder.add(2, 200, {"l0": 99.0})
    recorder.add(6, 600, {"l0": math.nan, "current_loss": math.inf})
    assert recorder.series("l0") == ([100, 200, 300, 400, 500], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert recorder.series("unheard_of") == ([], [])
    assert recorder.points()[-1].step == 6 and recorder.points()[-1].values == {}


def test_tenths():
    recorder = CurveRecorder()
    for step in range(1, 21):
        recorder.add(step, 10 * step, {"current_loss": float(step)})
    assert recorder.tenths() == [1.5 + 2 * i for i in range(10)]
    assert CurveRecorder().tenths() == [] and filled(1).tenths() == [1.0]
    assert filled(3).tenths("l0") == [1.0, 2.0, 3.0], "no more parts than measurements"


def test_tenths_of_uneven_steps_weigh_tokens():
    recorder = CurveRecorder()
    for step, tokens in enumerate((90, 100), start=1):
        recorder.add(step, tokens, {"current_loss": float(step)})
    assert recorder.tenths() == pytest.approx([1.0, (1 * 40 + 2 * 10) / 50])


@pytest.mark.parametrize("steps", (100, 5000))
def test_tenths_are_those_of_the_steps_themselves(steps):
    found = filled(steps).tenths("l0")
    expected = [part.mean() for part in np.split(np.arange(1, steps + 1), 10)]
    assert found == pytest.approx(expected, rel=0.01)


def damaged(**changes):
    return json.loads(json.dumps(filled(20, capacity=8).state())) | changes


@pytest.mark.parametrize(
    "state",
    (
        {},
        damaged(version=2),
        damaged(capacity=3),
        damaged(full=7),
        damaged(full=[[1, 2]]),
        damaged(open=[1, 1, 1, 0.0, {"a": 1.0}, {}]),
        damaged(open=[1, 1, 1, 0.0, {"a": 1.0}, {"a": 0}]),
        damaged(open=[1, 1, 1, 0.0, [], {}]),
    ),
)
def test_a_damaged_state_is_refused(state):
    with pytest.raises(Corrupt) as refusal:
        CurveRecorder.of_state(state)
    assert refusal.value.reason == "CHECKPOINT_LOST"


def test_state_stays_small():
    recorder = CurveRecorder()
    names = ("loss", "current_loss", "l0", "explained_variance", "dead_features", "learning_rate", "tokens_per_second")
    for step in range(1, 3000):
        recorder.add(step, 4096 * step, {name: math.sin(step) for name in names}, seconds=0.1 * step)
    assert len(json.dumps(recorder.state())) < 400_000
