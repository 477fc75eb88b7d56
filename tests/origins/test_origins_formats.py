"""The libraries themselves, each in its own environment: their files give their numbers here, our files there.

`make test-origins PEERS=FOLDER`; the folder has one virtual environment a library, named as below.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio_torch.formats import read_sae, write_sae
from tests.support import saefiles

ENVIRONMENTS = Path(os.environ.get("ORIGINS", "origins"))
SIDES = Path(__file__).with_name("sides.py")
CASES = [
    *(("saelens", kind) for kind in ("standard", "topk", "jumprelu", "gated", "transcoder", "skip_transcoder")),
    *(("saelens", kind) for kind in ("jumprelu_transcoder", "jumprelu_skip_transcoder")),
    *(("sparsify", kind) for kind in ("sae", "transcoder", "skip transcoder")),
    *(("dictionary_learning", kind) for kind in saefiles.DICTIONARIES),
]


def side(library: str, verb: str, folder: Path, kind: str, place: Path) -> tuple[np.ndarray, np.ndarray]:
    """(codes, y) of the library."""
    np.save(place / "x.npy", saefiles.rows())
    python = ENVIRONMENTS / library / "bin" / "python"
    arguments = [str(SIDES), library, verb, str(folder), kind, str(place / "x.npy"), str(place / "out.npz")]
    environment = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(python), *arguments], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(place / "out.npz")
    return found["codes"], found["y"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("library", "kind"), CASES)
def test_the_library_and_we_compute_the_same_from_the_same_files(library: str, kind: str, tmp_path: Path):
    theirs = tmp_path / "layers.3"
    theirs.mkdir()
    codes, y = side(library, "make", theirs, kind, tmp_path)
    imported = read_sae(theirs)
    ours_y, ours = imported.sae.reconstruct(torch.from_numpy(saefiles.rows()))
    dense = np.zeros_like(codes)
    dense[ours.token_N.numpy(), ours.feature_N.numpy()] = ours.value_N.numpy()
    assert (codes > 0).sum(1).mean() > 1
    np.testing.assert_allclose(dense, codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours_y.numpy(), y, rtol=1e-4, atol=1e-4)
    back = tmp_path / "back" / "layers.3"
    write_sae(imported.sae, back, library, imported.metadata)
    codes, y = side(library, "load", back, kind, tmp_path)
    np.testing.assert_allclose(codes, dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y, ours_y.numpy(), rtol=1e-4, atol=1e-4)
