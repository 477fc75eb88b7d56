"""Draws what `curves` recorded and the density of features, as PNG and SVG, and writes TensorBoard's event file.

The same figures give the same bytes: no dates, no host names, fixed identifiers. matplotlib and
tensorboard are imported when something is drawn or written, and no state of theirs is left changed.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistudio_train.curves import CurveRecorder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVENTS_FILE = "events.out.tfevents.0000000000.mistudio"
"""TensorBoard finds files by `tfevents` in their name."""
_INK, _FAINT, _LINE, _SECOND = "#2b2b2b", "#8a8a8a", "#1f5fa8", "#c2571a"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.hashsalt": "mistudio",
    "axes.edgecolor": "#c8c8c8",
    "axes.linewidth": 0.8,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One small picture."""

    title: str
    """What it shows, with its unit."""
    names: tuple[str, ...]
    """Figures, as in docs/metrics.md."""
    labels: tuple[str, ...] = ("",)
    """How each is named at the end of its line."""
    counts: bool = False
    """Whether its figures are whole numbers."""


_PANELS = (
    _Panel(
        title="Training batches: fraction of variance unexplained (FVU), and the loss that is minimised",
        names=("current_loss", "loss"),
        labels=("FVU", "loss"),
    ),
    _Panel(title="L0: features that fire on a token", names=("l0",)),
    _Panel(title="Dead features", names=("dead_features",), counts=True),
    _Panel(title="Learning rate", names=("learning_rate",)),
    _Panel(title="Tokens a second", names=("tokens_per_second",)),
)


def curve_files(recorder: CurveRecorder, *, title: str) -> dict[str, bytes]:
    """`curves.png` and `curves.svg`: small pictures of loss, L0, dead features, learning rate and speed over tokens.

    Figures that no step had get no picture. Raises ValueError where nothing was recorded.
    """
    panels = [panel for panel in _PANELS if any(recorder.series(name)[0] for name in panel.names)]
    if not panels:
        raise ValueError("no step was recorded")
    with _style():
        from matplotlib.figure import Figure

        rows = 1 + math.ceil((len(panels) - 1) / 2)
        figure = Figure(figsize=(10, 1.0 + 2.3 * rows), layout="constrained", facecolor="white")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        grid = figure.add_gridspec(rows, 2, height_ratios=[1.5] + [1.0] * (rows - 1))
        for number, panel in enumerate(panels):
            place = grid[0, :] if number == 0 else grid[(number + 1) // 2, (number + 1) % 2]
            axes = figure.add_subplot(place)
            _draw_panel(axes, panel, recorder, wide=number == 0)
            if number >= len(panels) - 2 or len(panels) == 1:
                axes.set_xlabel("tokens trained on")
        return _rendered(figure, "curves")


def density_files(
    histogram: Sequence[int], log10_edges: Sequence[float], *, dead: int, dense: int, tokens: int, title: str
) -> dict[str, bytes]:
    """`density.png` and `density.svg`: how many features fire how often.

    `histogram` counts features a bin of log10 firing frequency, `log10_edges` has one entry more; `dead` never
    fired and `dense` fired on more than a tenth of `tokens`.
    """
    if len(log10_edges) != len(histogram) + 1:
        raise ValueError("a histogram of n bins has n + 1 edges")
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        widths = [right - left for left, right in itertools.pairwise(log10_edges)]
        colours = [_SECOND if left >= -1 else _LINE for left in log10_edges[:-1]]
        axes.bar(
            log10_edges[:-1], histogram, width=widths, align="edge", color=colours, edgecolor="white", linewidth=0.6
        )
        _plain(axes, f"{title}: how often features fire")
        axes.set_xlim(log10_edges[0], log10_edges[-1])
        axes.set_ylim(0, max(1.0, 1.3 * max(histogram)))
        exponents = range(math.ceil(log10_edges[0]), math.floor(log10_edges[-1]) + 1)
        axes.set_xticks(list(exponents), [_one_in(exponent) for exponent in exponents])
        axes.set_xlabel(f"share of {tokens:,} held-out tokens on which a feature fires")
        axes.set_ylabel("features")
        _notes(axes, histogram, dead=dead, dense=dense, tokens=tokens)
        return _rendered(figure, "density")


def event_file(recorder: CurveRecorder, *, started: float = 0.0) -> bytes:
    """The curves as a TensorBoard event file, to be written as EVENTS_FILE: one scalar a figure, `train/<name>`.

    `started` (Unix seconds) is where TensorBoard's clock begins.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
    for point in recorder.points():
        values = [Summary.Value(tag=f"train/{name}", simple_value=v) for name, v in sorted(point.values.items())]
        event = Event(wall_time=started + point.seconds, step=point.step, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """The library's own defaults and _STYLE, whatever this machine's settings are; put back afterwards."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _draw_panel(axes: Axes, panel: _Panel, recorder: CurveRecorder, *, wide: bool) -> None:
    """Lines of one panel, each with its name and last value at its end."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    lines = [(label, *recorder.series(name)) for name, label in zip(panel.names, panel.labels, strict=True)]
    lines = [line for line in lines if line[1]]
    if len(lines) == 2 and _alike(lines[0][2], lines[1][2]):
        lines = [("FVU = loss", *lines[0][1:])]
    ends = _apart([values[-1] for _, _, values in lines], [v for _, _, values in lines for v in values])
    for (label, tokens, values), end, colour, level in zip(lines, ends, (_LINE, _SECOND), (3, 2), strict=False):
        mark: dict[str, Any] = {"marker": "o", "markersize": 4, "clip_on": False} if len(tokens) == 1 else {}
        axes.plot(tokens, values, color=colour, linewidth=1.5, zorder=level, **mark)
        text = f"{label}  {_short(values[-1])}".strip()
        axes.annotate(text, (tokens[-1], end), xytext=(6, 0), textcoords="offset points", va="center", color=colour)
    _plain(axes, panel.title)
    last = max(tokens[-1] for _, tokens, _ in lines)
    axes.set_xlim(0, last)
    low, high = min(min(v) for *_, v in lines), max(max(v) for *_, v in lines)
    if wide and low > 0 and high > 20 * low:
        axes.set_yscale("log")
    else:
        axes.set_ylim(min(0.0, 1.05 * low), 1.08 * high if high > 0 else 1.0)
    if panel.counts:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if high >= 10_000 else FuncFormatter(lambda v, _: _short(v)))


def _plain(axes: Axes, title: str) -> None:
    """Title at the left, faint lines across, no box."""
    axes.set_title(title, loc="left", fontsize=9.5, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _notes(axes: Axes, histogram: Sequence[int], *, dead: int, dense: int, tokens: int) -> None:
    """What the bars cannot show."""
    total = dead + sum(histogram)
    top = axes.get_ylim()[1]
    axes.text(-6.95, 0.97 * top, f"{dead:,} of {total:,} features are dead: they never fired", va="top", color=_INK)
    axes.text(-0.05, 0.97 * top, f"{dense:,} dense:\nmore than 1 in 10", va="top", ha="right", color=_SECOND)
    rarest = -math.log10(tokens)
    axes.axvline(rarest, color=_FAINT, linewidth=0.9, linestyle=(0, (3, 3)), ymax=0.86)
    side = ("right", -0.05) if rarest > -4 else ("left", 0.05)
    axes.text(
        rarest + side[1], 0.85 * top, "one token: rarer cannot be seen", va="top", ha=side[0], color=_FAINT, fontsize=8
    )


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= 0.005 * abs(a) for a, b in zip(one, other, strict=True))


def _apart(ends: Sequence[float], values: Sequence[float]) -> list[float]:
    """Heights of labels at `ends`, moved so far that two do not cover each other."""
    if len(ends) < 2:
        return list(ends)
    gap, centre = 0.09 * (max(values) - min(0.0, *values)), sum(ends) / 2
    if abs(ends[0] - ends[1]) >= gap:
        return list(ends)
    return [centre - gap / 2, centre + gap / 2] if ends[0] <= ends[1] else [centre + gap / 2, centre - gap / 2]


def _one_in(exponent: int) -> str:
    """-3 -> `1 in 1k`."""
    from matplotlib.ticker import EngFormatter

    return "every token" if exponent == 0 else f"1 in {EngFormatter(sep='')(10**-exponent)}"


def _short(value: float) -> str:
    """A figure with three digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rendered(figure: Figure, name: str) -> dict[str, bytes]:
    """The picture as PNG and SVG."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {f"{name}.png": png.getvalue(), f"{name}.svg": svg.getvalue()}
