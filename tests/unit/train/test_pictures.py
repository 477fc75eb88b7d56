"""Pictures of a run and its TensorBoard file: what is in them, and the same bytes each time."""

import io
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mistudio_torch.metrics import DENSITY_LOG10_EDGES
from mistudio_train.curves import CurveRecorder
from mistudio_train.pictures import EVENTS_FILE, curve_files, density_files, event_file

NAMES = ("loss", "current_loss", "l0", "dead_features", "learning_rate", "tokens_per_second")
BLUE, ORANGE = (0x1F, 0x5F, 0xA8), (0xC2, 0x57, 0x1A)


def recorded(steps=40, names=NAMES, extra=0.1):
    recorder = CurveRecorder()
    for step in range(1, steps + 1):
        figures = {"loss": 0.3 + extra + 1 / step, "current_loss": 0.3 + 1 / step, "l0": 32.0, "dead_features": 0.0}
        figures |= {"learning_rate": 4e-3 * (1 - step / 50), "tokens_per_second": 2e4 + step}
        recorder.add(step, 4096 * step, {name: figures[name] for name in names}, seconds=0.2 * step)
    return recorder


def pixels(png):
    from matplotlib.image import imread

    return np.rint(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(int)


def share(picture, colour):
    return (np.abs(picture - np.array(colour)).max(axis=2) <= 4).mean()


def test_curves_are_drawn_and_drawn_alike():
    first, second = (curve_files(recorded(), title="topk, 3,072 features") for _ in range(2))
    assert first == second and set(first) == {"curves.png", "curves.svg"}
    picture = pixels(first["curves.png"])
    assert picture.shape[1] == 1200 and picture.shape[0] > 700
    assert share(picture, (255, 255, 255)) > 0.8, "a light background"
    assert share(picture, BLUE) > 5e-4 and share(picture, ORANGE) > 2e-4
    svg = first["curves.svg"].decode()
    assert ET.fromstring(svg).tag.endswith("svg") and "date" not in svg.lower().replace("validate", "")


@pytest.mark.parametrize("steps", (1, 2000))
def test_one_line_where_the_loss_is_the_fvu(steps):
    names = ("loss", "current_loss")
    picture = pixels(curve_files(recorded(steps, names, extra=0.0), title="t")["curves.png"])
    assert share(picture, ORANGE) == 0 and share(picture, BLUE) > 1e-4


@pytest.mark.parametrize(("names", "rows"), ((NAMES, 3), (NAMES[:4], 2), (("current_loss",), 1)))
def test_figures_that_there_are_not_get_no_picture(names, rows):
    picture = pixels(curve_files(recorded(names=names), title="t")["curves.png"])
    assert picture.shape[0] == pytest.approx(120 * (1.0 + 2.3 * rows), abs=1)


def test_curves_over_decades_and_of_nothing_but_zeros():
    recorder = CurveRecorder()
    for step in range(1, 9):
        recorder.add(step, step, {"loss": 10.0**-step, "current_loss": 10.0**-step, "l0": 0.0, "dead_features": 0.0})
    assert curve_files(recorder, title="t")["curves.png"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no step"):
        curve_files(CurveRecorder(), title="t")


def density(histogram, **changes):
    figures = {"dead": 7, "dense": sum(histogram[24:]), "tokens": 200_000, "title": "topk"} | changes
    return density_files(histogram, DENSITY_LOG10_EDGES, **figures)


def test_density():
    histogram = [0] * 12 + list(range(16))
    first = density(histogram)
    assert first == density(histogram) and set(first) == {"density.png", "density.svg"}
    picture = pixels(first["density.png"])
    assert share(picture, BLUE) > 0.02 and share(picture, ORANGE) > 0.02
    assert share(pixels(density(histogram[::-1])["density.png"]), BLUE) > 0.02
    nothing = pixels(density([0] * 28, tokens=1)["density.png"])
    assert share(nothing, BLUE) == 0, "a dead SAE has no bar"
    with pytest.raises(ValueError, match="edges"):
        density_files([1, 2], DENSITY_LOG10_EDGES, dead=0, dense=0, tokens=1, title="t")


def test_no_setting_of_matplotlib_is_needed_or_left_changed():
    import matplotlib as mpl

    few = recorded(names=("l0",))
    plain = curve_files(few, title="t")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert curve_files(few, title="t") == plain
        assert (mpl.rcParams["font.size"], mpl.rcParams["axes.facecolor"]) == (30, "black")
        assert mpl.rcParams["svg.hashsalt"] is None


def test_tensorboard_reads_every_figure(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = event_file(recorded(), started=1000.0)
    assert data == event_file(recorded(), started=1000.0)
    (tmp_path / EVENTS_FILE).write_bytes(data)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == sorted(f"train/{name}" for name in NAMES)
    found = events.Scalars("train/current_loss")
    assert [e.step for e in found] == list(range(1, 41))
    assert [e.value for e in found] == pytest.approx([0.3 + 1 / step for step in range(1, 41)], rel=1e-6)
    assert found[9].wall_time == pytest.approx(1002.0) and math.isfinite(found[0].wall_time)
