"""SAELens' own synthetic model and its own trainers: ours find at least as many of the known features.

`make test-origins PEERS=FOLDER`; the folder has one virtual environment a library. Small sizes; the
figures of docs/benchmarks.md come from the same program with larger ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import run, synthetic

ENVIRONMENTS = os.environ.get("ORIGINS", "origins")
SIZES = "--true-features 64 --d-in 32 --tokens 100000 --batch 128 --lrs 0.003 0.01"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", synthetic.ARCHITECTURES)
def test_known_features_are_found_at_least_as_well(architecture: str, tmp_path: Path):
    given = ["synthetic", "--envs", ENVIRONMENTS, "--results", str(tmp_path), "--arch", architecture, *SIZES.split()]
    assert run.main(given) == 0
    rows = json.loads((tmp_path / "synthetic.json").read_text())["figures"]["summary"]
    ours, theirs = (next(row for row in rows if row["contestant"] == name) for name in ("miStudio", "SAELens"))
    assert ours["at_l0"] and ours["matched"] > 0.8
    assert ours["matched"] >= theirs["matched"]
