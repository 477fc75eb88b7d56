"""The benchmarks of Explain on small data: they print what they promise, and the control is below the figure."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import explain_quality, explain_speed
from benchmarks.peers.common import BadFile
from benchmarks.run import COMPARISONS
from tests.unit.find.stores import write_store


def arguments(benchmark, *given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.options(parser)
    return parser.parse_args([str(g) for g in given])


def test_quality_stands_beside_a_shuffled_assignment(tmp_path):
    codes = write_store(tmp_path / "codes")
    figures = explain_quality.run(arguments(explain_quality, "--codes", codes, "--shuffles", 2))
    assert figures["auroc_low"] <= figures["auroc"] <= figures["auroc_high"]
    assert figures["auroc"] > 0.7
    assert figures["auroc_shuffled"] < figures["auroc"] - 0.1
    assert 0 < figures["features"] <= 6
    assert figures["judge"].startswith("lexical-auroc/")


def test_quality_needs_something_to_read():
    with pytest.raises(BadFile, match="--codes"):
        explain_quality.run(arguments(explain_quality))


def test_speed_counts_whole_runs_and_their_parts():
    figures = explain_speed.run(arguments(explain_speed, "--features", 4, "--tokens", 4000, "--runs", 1))
    assert figures["features"] == 4
    assert figures["artifacts"] == ["explanations", "report"]
    assert all(value > 0 for name, value in figures.items() if name.startswith(("seconds", "milliseconds")))


def test_both_are_known_by_name():
    assert {"explain_quality", "explain_speed"} <= set(COMPARISONS)
