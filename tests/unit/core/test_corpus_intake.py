"""Every form of an upload becomes one canonical corpus, whatever the chunks it arrives in."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from mistudio_core.corpus.documents import Document, iter_documents
from tests.support.corpora import jsonl, parquet, upload

RECORDS = (
    {"id": 1, "text": "One ä.", "topic": "a", "tone": True, "who": "me", "when": "2024-01-31T12:00:00+02:00"},
    {"id": 2, "text": "  two\nlines ", "topic": None, "tone": 3, "who": 7, "when": 1_706_695_200},
    {"id": 3, "text": " \n", "topic": "b"},
    {"id": 4, "text": "four", "topic": "b", "when": None},
)
NAMED = {"labels": ("topic", "tone"), "group": "who", "time": "when"}
TIME = 1_706_695_200_000_000
EXPECTED = [
    Document(text="One ä.", labels={"topic": "a", "tone": "true"}, group="me", time=TIME),
    Document(text="  two\nlines ", labels={"tone": "3"}, group="7", time=TIME),
    Document(text="four", labels={"topic": "b"}),
]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_plain_text_is_kept_byte_by_byte(tmp_path: Path, chunk: int):
    data = b"\xef\xbb\xbffirst\r\n\n  second \xc3\xa4 \n \t \nlast"
    stored = upload(tmp_path, "a.txt", data, chunk=chunk)
    assert stored.path.name == "corpus.txt"
    assert stored.path.read_bytes() == data
    assert [d.text for d in stored.documents] == ["first", "second ä", "last"]
    assert stored.about.statistics.documents == 3
    assert stored.about.source_sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize(("separator", "end"), [("\n\n", b"\n\n"), ("\n\n", b"\r\n\r\n"), ("<|end|>", b"<|end|>")])
def test_a_separator_parts_documents(tmp_path: Path, chunk: int, separator: str, end: bytes):
    data = end.join([b"one\nline", b"", b" two ", b"three\n"])
    stored = upload(tmp_path, "a.txt", data, chunk=chunk, separator=separator)
    assert [d.text for d in stored.documents] == ["one\nline", "two", "three"]


def _gzip(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:]) + b"\x00" * 7


def _zstd(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", _gzip), (".zst", _zstd)])
def test_records_with_everything_that_travels_along(tmp_path: Path, chunk: int, ending: str, pack):
    stored = upload(tmp_path, f"a.jsonl{ending}", pack(b"\n" + jsonl(*RECORDS)), chunk=chunk, **NAMED)
    assert stored.path.name == "corpus.jsonl"
    assert stored.documents == EXPECTED
    assert stored.about.statistics.blank_documents == 1
    assert stored.about.statistics.columns == ("id", "text", "topic", "tone", "who", "when")


def test_packed_text_unpacks_to_what_was_packed(tmp_path: Path):
    data = b"one\ntwo\n" * 1000
    for name, pack in (("a.txt.gz", _gzip), ("a.txt.zst", _zstd), ("a.ZST", _zstd)):
        stored = upload(tmp_path, name, pack(data), chunk=11)
        assert stored.path.read_bytes() == data
        assert stored.about.source_bytes == len(pack(data))


def test_parquet_gives_the_same_documents(tmp_path: Path):
    records = [dict.fromkeys(RECORDS[0]) | record for record in RECORDS]
    columns = {name: [record[name] for record in records] for name in ("text", "topic")}
    columns["when"] = [datetime(2024, 1, 31, 10, 0, tzinfo=UTC), None, None, None]
    columns["tone"] = [1.5, None, 2.0, 3.0]
    data = parquet(columns, row_group_size=2)
    stored = upload(tmp_path, "a.parquet", data, chunk=100, labels=("topic", "tone"), time="when")
    assert [d.text for d in stored.documents] == [d.text for d in EXPECTED]
    assert [d.labels for d in stored.documents] == [
        {"topic": "a", "tone": "1.5"},
        {},
        {"topic": "b", "tone": "3.0"},
    ]
    assert [d.time for d in stored.documents] == [TIME, None, None]
    assert {file.name for file in stored.reader.record.files} == {"corpus.jsonl", "about.json"}


def test_chats(tmp_path: Path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "name": "x", "weight": None}]
    stored = upload(tmp_path, "a.jsonl", jsonl({"messages": chat}, {"messages": [], "text": None}))
    assert stored.documents == [Document(messages=(("user", "hi"), ("assistant", "hello")))]
    assert any("left out: name." in warning for warning in stored.about.warnings)
    packed = upload(tmp_path, "b.parquet", parquet({"talk": [chat]}), messages="talk")
    assert packed.documents == stored.documents


def test_named_columns_decide_between_text_and_messages(tmp_path: Path):
    both = jsonl({"text": "t", "messages": [{"role": "user", "content": "m"}]})
    plain = upload(tmp_path, "a.jsonl", both)
    assert plain.documents[0].text == "t"
    assert any("text and messages" in warning for warning in plain.about.warnings)
    assert upload(tmp_path, "a.jsonl", both, messages="messages").documents[0].messages == (("user", "m"),)
    named = upload(tmp_path, "a.jsonl", both, text="text")
    assert named.documents[0].text == "t"
    assert not any("messages" in warning for warning in named.about.warnings)


def test_half_characters_are_replaced_and_told(tmp_path: Path):
    stored = upload(tmp_path, "a.jsonl", b'{"text": "a\\ud83d b \\ud83d\\ude00"}\n')
    assert stored.documents[0].text == "a\ufffd b \U0001f600"
    assert any("half characters" in warning for warning in stored.about.warnings)


def test_what_is_stored_is_read_back_as_it_was(tmp_path: Path):
    stored = upload(tmp_path, "a.jsonl", jsonl(*RECORDS), **NAMED)
    again = upload(tmp_path, "b.jsonl", stored.path.read_bytes())
    assert [d.text for d in again.documents] == [d.text for d in stored.documents]
    (tmp_path / "copy.jsonl").write_bytes(b"".join(d.line() for d in stored.documents))
    assert (tmp_path / "copy.jsonl").read_bytes() == stored.path.read_bytes()
    assert list(iter_documents(tmp_path / "copy.jsonl")) == EXPECTED
