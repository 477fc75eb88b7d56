"""Analyses that stay open between calls, and the tail of a spool that its writer still fills."""

from __future__ import annotations

import os

import pytest

from mistudio_core.artifacts import ArtifactStore
from mistudio_core.errors import Unsupported
from mistudio_find.opened import OpenAnalyses
from mistudio_find.outputs import INDEX_FILE, LINES_FILE, RecordSpool
from mistudio_find.spooled import SpoolTail
from tests.support.analyses import feature, publish


def write(store, folder, name, *, only=()):
    writer = store.stage(f"/data/find/x/{name}", "features")
    publish(writer, [feature(i) for i in range(3)], folder)
    for path in writer.folder.iterdir():
        if only and path.name not in only:
            path.unlink()
    return writer.seal()


def test_an_analysis_is_opened_once_and_the_longest_unused_is_dropped(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    artifacts = [write(store, tmp_path, f"a{i}") for i in range(3)]
    analyses = OpenAnalyses(store, most=2)
    first = analyses.get(artifacts[0])
    assert analyses.get(artifacts[0]) is first
    for artifact in artifacts[1:]:
        analyses.get(artifact)
    assert first.pages.feature(2)["feature_id"] == 2  # still good for who has it
    assert analyses.get(artifacts[0]) is not first


def test_an_analysis_without_a_query_table_lists_but_does_not_filter(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    opened = OpenAnalyses(store).get(write(store, tmp_path, "old", only={LINES_FILE, INDEX_FILE}))
    assert [r["feature_id"] for r in opened.pages.page(0, 10)] == [0, 1, 2]
    with pytest.raises(Unsupported, match="Run the Find job again"):
        opened.queries()


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "1").mkdir()
    made = RecordSpool(tmp_path / "1" / "features.spool")
    yield made
    made.close()


def seen(tail):
    return [record["feature_id"] for record in tail.read()]


def test_a_tail_reads_what_was_added_and_resumes(tmp_path, spool):
    tail = SpoolTail(tmp_path, -1)
    assert seen(tail) == []
    for i in range(4):
        spool.add(feature(i, ["=1+1", "line\nbreak"]))
    spool.note()
    assert seen(tail) == [0, 1, 2, 3]
    assert seen(tail) == []
    assert seen(SpoolTail(tmp_path, 1)) == [2, 3]


def test_a_tail_waits_for_the_end_of_a_line_and_takes_few_at_a_time(tmp_path, spool, monkeypatch):
    monkeypatch.setattr("mistudio_find.spooled._BATCH_BYTES", 100)
    for i in range(3):
        spool.add(feature(i, ["x" * 500]))
    spool.note()
    whole = spool.path.read_bytes()
    (tmp_path / "2").mkdir()
    growing = tmp_path / "2" / "features.spool"
    os.utime(spool.path, (0, 0))
    tail, ids = SpoolTail(tmp_path, -1), []
    for cut in range(0, len(whole) + 50, 50):
        growing.write_bytes(whole[:cut])
        ids += seen(tail)
    while more := seen(tail):
        ids += more
    assert ids == [0, 1, 2]


def test_a_spool_that_begins_anew_brings_nothing_twice(tmp_path, spool):
    for i in range(3):
        spool.add(feature(i))
    spool.note()
    tail = SpoolTail(tmp_path, -1)
    assert seen(tail) == [0, 1, 2]
    spool.path.write_bytes(b"")  # the attempt was killed before it could say what it had
    assert seen(tail) == []
    again = RecordSpool(tmp_path / "1" / "again.spool")
    for i in range(5):
        again.add(feature(i))
    again.close()
    spool.path.write_bytes(again.path.read_bytes())
    assert seen(tail) == [3, 4]


def test_a_tail_survives_the_end_of_the_attempt(tmp_path, spool):
    spool.add(feature(0))
    spool.note()
    tail = SpoolTail(tmp_path, -1)
    assert seen(tail) == [0]
    spool.path.unlink()
    assert seen(tail) == []
    spool.path.touch()
