"""A folder as one stream: order, forms, and errors that name the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mistudio_core.corpus.columns import Columns
from mistudio_core.corpus.folder import FolderStream, files_below
from mistudio_core.errors import InvalidInput
from tests.support.corpora import jsonl, parquet, upload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    for name, data in {
        "b.txt": b"b one\nb two\n",
        "a/z.jsonl.gz": gzip.compress(jsonl({"text": "z", "topic": "t", "more": 1})),
        "a/m.md": b"# Title\n\npara\r\n",
        "c.parquet": parquet({"text": ["p"], "topic": ["q"]}),
        ".hidden/x.txt": b"not this",
        "image.png": b"\x89PNG",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def stream_of(folder: Path, **options) -> FolderStream:
    return FolderStream(folder=folder, files=files_below(folder), **options)


def records(stream: FolderStream) -> list[dict[str, object]]:
    return [json.loads(line) for line in b"".join(stream.pieces()).splitlines()]


def test_every_file_in_the_order_of_its_path(folder: Path, tmp_path: Path):
    stream = stream_of(folder, columns=Columns(labels=("topic",)))
    found = records(stream)
    assert [(r["text"], r["topic"]) for r in found] == [
        ("# Title\n\npara", None),
        ("z", "t"),
        ("b one", None),
        ("b two", None),
        ("p", "q"),
    ]
    stored = upload(tmp_path / "store", "texts.jsonl", b"".join(stream.pieces()), labels=("topic",))
    assert [d.labels.get("topic") for d in stored.documents] == [None, "t", None, None, "q"]


def test_whole_files_and_separators(folder: Path):
    assert "b one\nb two" in [r["text"] for r in records(stream_of(folder, whole_files=True))]
    assert [r["text"] for r in records(stream_of(folder, separator=" "))][2:5] == ["b", "one\nb", "two"]


def test_pieces_are_bounded(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(*({"text": "x" * 300_000} for _ in range(9))))
    (tmp_path / "b.jsonl").write_bytes(jsonl({"text": "y" * 3_000_000, "big": "\ud800"}, {"text": "\ud800"}))
    pieces = list(stream_of(tmp_path).pieces())
    assert max(map(len, pieces)) <= 1 << 20
    assert len(b"".join(pieces).splitlines()) == 11


def test_errors_name_the_file(folder: Path):
    for name, data, words in (
        ("a/x.jsonl", b'{"text": "a"}\n{"text"\n', "Line 2 of corpus file 'a/x.jsonl'"),
        ("a/x.jsonl", b'{"body": "a"}\n', "a/x.jsonl' has no column"),
        ("x.txt", b"caf\xe9\n", "x.txt"),
        ("x.parquet", b"PAR1", "x.parquet"),
        ("x.txt.gz", b"no gzip", "x.txt.gz"),
    ):
        (folder / name).write_bytes(data)
        with pytest.raises(InvalidInput) as caught:
            records(stream_of(folder))
        assert words in caught.value.message
        (folder / name).unlink()
    with pytest.raises(InvalidInput, match="Folder 'texts' has no column 'topik'"):
        records(stream_of(folder, columns=Columns(labels=("topik",))))
    with pytest.raises(InvalidInput, match="messages_column"):
        records(stream_of(folder, columns=Columns(messages="talk")))


def test_files_that_cannot_be_read_are_named(folder: Path):
    for name in ("no.txt", "neither.md"):
        (folder / name).symlink_to("nowhere")
    with pytest.raises(InvalidInput, match=r"neither\.md, no\.txt\."):
        files_below(folder)
    with pytest.raises(InvalidInput) as caught:
        files_below(folder / ".hidden" / "none")
    assert caught.value.reason == "CORPUS_EMPTY"
