"""What an upload is refused for: the reason, where it stands, and that nothing is kept."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from mistudio_core.corpus import columns, documents, parquet
from mistudio_core.corpus.names import check_name, form_of
from mistudio_core.errors import InvalidInput, LimitReached, MistudioError, Unsupported
from tests.support import corpora
from tests.support.corpora import jsonl, upload

GOOD = {"text": "fine", "topic": "a"}


@pytest.mark.parametrize(
    ("data", "named", "reason", "words"),
    [
        (jsonl(GOOD, {"text": 3}), {}, "CORPUS_RECORD_INVALID", ("Line 2", "a number in column 'text'")),
        (jsonl(GOOD, {"text": None}), {}, "CORPUS_RECORD_INVALID", ("Line 2", "null")),
        (jsonl(GOOD, "text"), {}, "CORPUS_RECORD_INVALID", ("Line 2", "a string, not an object")),
        (jsonl(GOOD) + b'\n{"text": "torn', {}, "CORPUS_RECORD_INVALID", ("Line 3", "not JSON")),
        (b'[{"text": "a"}]\n', {}, "CORPUS_RECORD_INVALID", ("Line 1", "a list")),
        (b"[\n", {}, "CORPUS_RECORD_INVALID", ("Line 1", "array")),
        (b'{"text": ' + b"[" * 200_000 + b"\n", {}, "CORPUS_RECORD_INVALID", ("Line 1",)),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", {}, "CORPUS_RECORD_INVALID", ("Line 1",)),
        (jsonl(GOOD) + b'{"text": "\xff"}\n', {}, "CORPUS_NOT_UTF8", ("Line 2",)),
        (jsonl(GOOD) + b"\x00\n", {}, "CORPUS_BINARY", ("line 2",)),
        (b"\n \n", {}, "CORPUS_EMPTY", ("no text",)),
        (jsonl({"text": " "}), {}, "CORPUS_EMPTY", ("no text",)),
        (jsonl({"body": "x", "n": 1}), {}, "CORPUS_COLUMN_MISSING", ("'text' or 'messages'", "body, n")),
        (jsonl(GOOD), {"text": "body"}, "CORPUS_COLUMN_MISSING", ("'body'", "text, topic", "text_column")),
        (jsonl(GOOD), {"messages": "talk"}, "CORPUS_COLUMN_MISSING", ("'talk'", "messages_column")),
        (jsonl(GOOD), {"labels": ("topik",)}, "CORPUS_COLUMN_MISSING", ("'topik'", "text, topic", "label_columns")),
        (jsonl(GOOD), {"group": "who"}, "CORPUS_COLUMN_MISSING", ("'who'", "group_column")),
        (jsonl(GOOD), {"time": "topic"}, "CORPUS_RECORD_INVALID", ("'a'", "ISO 8601")),
        (jsonl(GOOD | {"topic": ["a"]}), {"labels": ("topic",)}, "CORPUS_RECORD_INVALID", ("a list", "'topic'")),
        (jsonl(GOOD | {"topic": "x" * 201}), {"labels": ("topic",)}, "CORPUS_RECORD_INVALID", ("201", "200")),
        (jsonl({"messages": "hi"}), {}, "CORPUS_RECORD_INVALID", ("a string", "list of messages")),
        (jsonl({"messages": [{"role": "user"}]}), {}, "CORPUS_RECORD_INVALID", ("role and content",)),
    ],
)
def test_a_record_that_is_no_document(tmp_path: Path, data: bytes, named, reason: str, words):
    with pytest.raises(InvalidInput) as caught:
        upload(tmp_path, "a.jsonl", data, chunk=4096, **named)
    assert caught.value.reason == reason
    assert all(word in caught.value.message for word in words), caught.value.message
    assert not list((tmp_path / "staging").iterdir())


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_file_that_is_damaged_or_swells(tmp_path: Path, pack, monkeypatch):
    ending = ".gz" if pack is gzip.compress else ".zst"
    whole = pack(b"one line of text\n" * 100)
    for data in (whole[:-3], whole[:10], b"no packed file at all", whole + b"more"):
        with pytest.raises(InvalidInput) as caught:
            upload(tmp_path, f"a.txt{ending}", data, chunk=5)
        assert caught.value.reason == "CORPUS_UNREADABLE"
    monkeypatch.setattr("mistudio_core.corpus.unpack.FREE_BYTES", 1 << 20)
    with pytest.raises(LimitReached, match="250 times") as swollen:
        upload(tmp_path, f"a.txt{ending}", pack(b"aaaaaaa\n" * (1 << 20)))
    assert swollen.value.reason == "TOO_LARGE"
    assert not list((tmp_path / "staging").iterdir())


def test_a_parquet_file_that_cannot_be_used(tmp_path: Path, monkeypatch):
    good = corpora.parquet({"text": ["a", "b"], "n": [1, 2]})
    for data, named, reason, words in (
        (good[:-9], {}, "CORPUS_UNREADABLE", "cannot be read"),
        (b"PAR1" + b"\x00" * 50 + b"PAR1", {}, "CORPUS_UNREADABLE", "cannot be read"),
        (good, {"text": "body"}, "CORPUS_COLUMN_MISSING", "text, n"),
        (good, {"labels": ("topic",)}, "CORPUS_COLUMN_MISSING", "label_columns"),
        (corpora.parquet({"text": ["a", None]}), {}, "CORPUS_RECORD_INVALID", "Row 2"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            upload(tmp_path, "a.parquet", data, **named)
        assert caught.value.reason == reason
    monkeypatch.setattr("mistudio_core.corpus.unpack.FREE_BYTES", 1 << 16)
    with pytest.raises(LimitReached, match="250 times"):
        upload(tmp_path, "a.parquet", corpora.parquet({"text": ["a" * 10_000] * 1000}, compression="zstd"))
    assert not list((tmp_path / "staging").iterdir())


def test_a_parquet_file_without_memory_for_it_is_refused_by_its_own_process(tmp_path: Path):
    import pyarrow as pa

    path = tmp_path / "huge.parquet"
    swollen = pa.DictionaryArray.from_arrays(pa.array([0] * 128, pa.int32()), pa.array(["a" * 30_000_000]))
    options = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30, "store_schema": False}
    path.write_bytes(corpora.parquet({"text": swollen}, **options))
    with pytest.raises(InvalidInput, match="GiB of memory") as caught:
        list(parquet.isolated_rows(path, "huge.parquet", ("text",)))
    assert caught.value.reason == "CORPUS_UNREADABLE"


def test_lengths(tmp_path: Path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"Line 2 .* 1 MiB") as caught:
        upload(tmp_path, "a.txt", b"a\n" + b"b" * (1 << 20) + b"b\n")
    assert caught.value.reason == "CORPUS_LINE_TOO_LONG"
    assert upload(tmp_path, "a.txt", b"b" * (1 << 20)).about.statistics.max_characters == 1 << 20
    monkeypatch.setattr("mistudio_core.corpus.forms.MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(columns, "MAX_DOCUMENT_BYTES", 100)
    for name, data, separator in (("a.jsonl", jsonl({"text": "é" * 51}), ""), ("a.txt", b"x" * 101, "--")):
        with pytest.raises(InvalidInput) as caught:
            upload(tmp_path, name, data, separator=separator)
        assert caught.value.reason == "CORPUS_LINE_TOO_LONG"
    assert upload(tmp_path, "a.jsonl", jsonl({"text": "é" * 50})).documents


def test_a_stored_record_that_is_none_is_corrupt(tmp_path: Path):
    (tmp_path / "corpus.jsonl").write_bytes(b'{"text": "a"}\n{"messages": [1]}\n')
    with pytest.raises(MistudioError, match="Line 2") as caught:
        list(documents.iter_documents(tmp_path / "corpus.jsonl"))
    assert caught.value.reason == "ARTIFACT_CORRUPT"


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.tar.gz", "a.zip", "a.txt.bz2", "a.parquet.gz", "a.docx"])
def test_a_form_that_is_not_read_says_what_to_do(name: str):
    with pytest.raises(Unsupported) as caught:
        form_of(name)
    assert caught.value.facts["instead"] in caught.value.message


def test_options_of_another_form_are_refused(tmp_path: Path):
    for name, options, field in (
        ("a.txt", {"text": "body"}, "text_column"),
        ("a.txt.gz", {"labels": ("x",)}, "label_columns"),
        ("a.jsonl", {"separator": "--"}, "separator"),
        ("a.parquet", {"separator": "--"}, "separator"),
        ("a.txt", {"separator": "-" * 101}, "separator"),
        ("a.jsonl", {"labels": ("x", "x")}, "column"),
        ("a.jsonl", {"text": "x", "group": "x"}, "column"),
        ("a.jsonl", {"labels": tuple("abcdefghijklmnopqrstu")}, "label_columns"),
    ):
        with pytest.raises(InvalidInput) as caught:
            upload(tmp_path, name, b"x\n", **options)
        assert caught.value.problems[0].field == field
    assert not list((tmp_path / "staging").iterdir())


@pytest.mark.parametrize("name", ["../a", "a/b", "con.txt", ".a", "a.", "a" * 256, "", "a\x00b"])
def test_a_name_that_is_a_path(name: str):
    with pytest.raises(InvalidInput) as caught:
        check_name(name)
    assert caught.value.reason == "BAD_FILE_NAME"
