"""Figures of every step of a run in bounded memory: for pictures, TensorBoard and the gate of convergence.

Steps are averaged into at most CAPACITY stretches of equal length; when these are full, neighbours
merge. State is JSON and goes into checkpoints. Drawing is `pictures`' business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_core.errors import Corrupt

CAPACITY = 512
"""Stretches that are kept at most; from half of it on, once there were that many steps."""
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A stretch of steps."""

    step: int
    """Number of its last step, from 1."""
    tokens: int
    """Tokens trained on up to its end."""
    seconds: float
    """Seconds trained up to its end."""
    values: Mapping[str, float]
    """Mean of each figure over the steps that had it."""


@dataclass(slots=True)
class _Stretch:
    """Sums over consecutive steps."""

    steps: int
    step: int
    tokens: int
    seconds: float
    sums: dict[str, float]
    counts: dict[str, int]

    def take(self, later: _Stretch) -> None:
        """Adds the stretch that follows."""
        self.steps += later.steps
        self.step, self.tokens, self.seconds = later.step, later.tokens, later.seconds
        for name, total in later.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + later.counts[name]

    def point(self) -> Point:
        """Its means."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        return Point(step=self.step, tokens=self.tokens, seconds=self.seconds, values=means)


class CurveRecorder:
    """The curves of one SAE. `add` is cheap: call it each step."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Keeps at most `capacity` stretches, an even number."""
        if capacity < 2 or capacity % 2:
            raise ValueError("capacity must be even and at least 2")
        self._capacity = capacity
        self._stride = 1
        self._full: list[_Stretch] = []
        self._open: _Stretch | None = None

    def add(self, step: int, tokens: int, values: Mapping[str, float], *, seconds: float = 0.0) -> None:
        """A step: its number, tokens and seconds trained so far, and its figures.

        Figures that are NaN or infinite are left out, and so is a step at or before the last one: it was seen.
        """
        if step <= self._last_step():
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        now = _Stretch(1, step, tokens, seconds, finite, dict.fromkeys(finite, 1))
        if self._open is None:
            self._open = now
        else:
            self._open.take(now)
        if self._open.steps >= self._stride:
            self._full.append(self._open)
            self._open = None
        if len(self._full) >= self._capacity:
            self._merge()

    def points(self) -> list[Point]:
        """All stretches in their order, the unfinished last one too."""
        last = [] if self._open is None else [self._open]
        return [stretch.point() for stretch in (*self._full, *last)]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(tokens, values) of one figure; empty lists where no step had it."""
        found = [(p.tokens, p.values[name]) for p in self.points() if name in p.values]
        return [tokens for tokens, _ in found], [value for _, value in found]

    def tenths(self, name: str = "current_loss") -> list[float]:
        """Mean of a figure over each tenth of the tokens so far; parts of a stretch count by their share of it.

        Fewer than ten where there are fewer stretches, so that each is a measurement of its own.
        """
        spans = list(self._spans(name))
        parts = min(10, len(spans))
        total = spans[-1][1] if spans else 0
        return [_mean_within(spans, total * i / parts, total * (i + 1) / parts) for i in range(parts)]

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it bit for bit."""
        return {
            "version": STATE_VERSION,
            "capacity": self._capacity,
            "stride": self._stride,
            "full": [_packed(stretch) for stretch in self._full],
            "open": None if self._open is None else _packed(self._open),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> CurveRecorder:
        """A recorder that goes on where `state` was taken. Raises Corrupt (CHECKPOINT_LOST)."""
        try:
            _check(state["version"] == STATE_VERSION, "another version")
            recorder = cls(int(state["capacity"]))
            recorder._stride = int(state["stride"])
            recorder._full = [_unpacked(row) for row in state["full"]]
            recorder._open = None if state["open"] is None else _unpacked(state["open"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt("The checkpoint's training curves cannot be read.", reason="CHECKPOINT_LOST") from error
        return recorder

    def _last_step(self) -> int:
        if self._open is not None:
            return self._open.step
        return self._full[-1].step if self._full else 0

    def _merge(self) -> None:
        """Halves the number of stretches: each takes its neighbour."""
        merged = self._full[::2]
        for stretch, later in zip(merged, self._full[1::2], strict=True):
            stretch.take(later)
        self._full, self._stride = merged, 2 * self._stride

    def _spans(self, name: str) -> Iterator[tuple[int, int, float]]:
        """(first token, past-last token, mean) of the stretches that have a figure."""
        start = 0
        for point in self.points():
            if name in point.values and point.tokens > start:
                yield start, point.tokens, point.values[name]
                start = point.tokens


def _mean_within(spans: Sequence[tuple[int, int, float]], first: float, last: float) -> float:
    """Mean over the tokens from `first` to `last`."""
    weighted = [(min(end, last) - max(start, first), value) for start, end, value in spans]
    inside = [(weight, value) for weight, value in weighted if weight > 0]
    return sum(weight * value for weight, value in inside) / sum(weight for weight, _ in inside)


def _packed(stretch: _Stretch) -> list[Any]:
    return [stretch.steps, stretch.step, stretch.tokens, stretch.seconds, stretch.sums, stretch.counts]


def _unpacked(row: Sequence[Any]) -> _Stretch:
    steps, step, tokens, seconds, sums, counts = row
    totals = {str(name): float(value) for name, value in sums.items()}
    numbers = {str(name): int(value) for name, value in counts.items()}
    _check(set(totals) == set(numbers) and min(numbers.values(), default=1) >= 1, "sums without counts")
    return _Stretch(int(steps), int(step), int(tokens), float(seconds), totals, numbers)


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise ValueError(why)
