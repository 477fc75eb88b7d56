"""delphi itself, in an environment of its own, reads the cache that we export.

`make test-origins PEERS=FOLDER`, as for the other libraries.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make
from mistudio_torch.codes import CodesReader
from tests.unit.find.records import Files, dead, record, write_features
from tests.unit.find.stores import write_store

ENVIRONMENT = Path(os.environ.get("ORIGINS", "origins")) / "delphi"
SIDE = Path(__file__).with_name("delphi_side.py")


@pytest.mark.timeout(600)
def test_delphis_loader_reads_our_cache(tmp_path: Path):
    store = write_store(tmp_path / "codes")
    features = Files(write_features(tmp_path / "features", [record(0), dead(1)]))
    make(Analysis(features, Files(store)), {"delphi": tmp_path / "delphi.tar"})
    with tarfile.open(tmp_path / "delphi.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    module = next((tmp_path / "latents").iterdir()).name
    arguments = [str(SIDE), str(tmp_path / "latents"), module, str(tmp_path / "out.npz")]
    environment = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    python = str(ENVIRONMENT / "bin" / "python")
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, codes = np.load(tmp_path / "out.npz"), CodesReader.from_folder(store)
    context = theirs["tokens"].shape[1]
    ids = np.concatenate([codes.token_ids(d) for d in range(codes.n_documents)])
    assert (theirs["tokens"].reshape(-1)[: len(ids)] == ids).all()
    assert len(theirs["feature"]) == codes.n_nonzero
    strongest = dict(theirs["records"].tolist())
    assert len(strongest) >= 4
    for feature in range(codes.d_sae):
        ours, rows = codes.feature(feature), theirs["feature"] == feature
        places = theirs["sequence"][rows] * context + theirs["position"][rows]
        assert (np.sort(places) == ours.positions).all()
        assert (theirs["activation"][rows][np.argsort(places)] == ours.values).all()
        if feature in strongest:
            assert strongest[feature] == ours.values.max()
