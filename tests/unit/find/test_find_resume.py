"""A killed analysis goes on after its last whole record, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mistudio_core.jobs.local import LocalContext
from mistudio_find import job
from mistudio_find.config import FindConfig
from mistudio_find.outputs import RecordSpool
from tests.unit.find.stores import Folder, write_store

CONFIG = FindConfig(training_job_id="train_1")
RUN = """
import sys
from pathlib import Path
from tests.unit.find.test_find_resume import analysed
analysed(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def analysed(folder, codes):
    """The files of an analysis whose job lives in `folder`, without what tells the time."""
    context = LocalContext(folder, inputs={"codes": Folder(codes)})
    job.run(CONFIG, context)
    reader = context.reader("analysis")
    names = ("features.jsonl", "features.idx", "feature_analysis.csv", "pattern_categories.json", "vocabulary.json")
    files = {name: reader.path(name).read_bytes() for name in names}
    published = json.loads(reader.path("feature_analysis.json").read_text())
    del published["job_metadata"]["processing_time"]
    return files | {"feature_analysis.json": published}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "codes")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, store):
    return analysed(tmp_path_factory.mktemp("whole"), store)


def test_an_attempt_that_dies_between_records_is_taken_up(tmp_path, store, whole, monkeypatch):
    records, done = job.Analyst.records, []

    def dies(self, first):
        for record in records(self, first):
            if record["feature_id"] == 5:
                raise RuntimeError("the machine is gone")
            yield record

    def counts(self, first):
        for record in records(self, first):
            done.append(record["feature_id"])
            yield record

    monkeypatch.setattr(job.Analyst, "records", dies)
    with pytest.raises(RuntimeError, match="gone"):
        analysed(tmp_path, store)
    monkeypatch.setattr(job.Analyst, "records", counts)
    assert analysed(tmp_path, store) == whole
    assert done == [5, 6, 7]


@pytest.mark.parametrize("cut", ["records", "notes"])
def test_a_torn_write_is_cut_off(tmp_path, store, whole, monkeypatch, cut):
    with monkeypatch.context() as patch:
        patch.setattr(RecordSpool, "publish", lambda *_: os.kill(os.getpid(), 0) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            analysed(tmp_path, store)
    (notes,) = (tmp_path / "kept").glob("*.notes")
    torn = notes if cut == "notes" else notes.with_suffix(".spool")
    os.truncate(torn, torn.stat().st_size - 10)
    assert analysed(tmp_path, store) == whole


def test_kill_9_at_any_moment(tmp_path, store, whole):
    arguments = [sys.executable, "-c", RUN, str(tmp_path), str(store)]
    for wait in (1.5, 2.2):
        process = subprocess.Popen(arguments)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert analysed(tmp_path, store) == whole
