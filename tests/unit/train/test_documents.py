"""Documents of a corpus file and their split."""

import pytest

from mistudio_core.corpus.documents import is_heldout, iter_documents
from mistudio_core.errors import InvalidInput


def write(tmp_path, data):
    path = tmp_path / "corpus.txt"
    path.write_bytes(data)
    return path


def test_one_document_a_non_blank_line(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbffirst\r\n\n  second \xc3\xa4 \n \t \nlast")
    assert [d.text for d in iter_documents(path)] == ["first", "second ä", "last"]


def test_not_utf8_names_the_line(tmp_path):
    with pytest.raises(InvalidInput, match="Line 2") as refusal:
        list(iter_documents(write(tmp_path, b"ok\n\xff\xfe\n")))
    assert refusal.value.reason == "CORPUS_NOT_UTF8"


def test_long_line(tmp_path, monkeypatch):
    monkeypatch.setattr("mistudio_core.corpus.documents.MAX_LINE_BYTES", 10)
    assert [d.text for d in iter_documents(write(tmp_path, b"123456789\n"))] == ["123456789"]
    with pytest.raises(InvalidInput) as refusal:
        list(iter_documents(write(tmp_path, b"12345678901\n")))
    assert refusal.value.reason == "CORPUS_LINE_TOO_LONG"


def test_split_is_a_function_of_the_text():
    texts = [f"text {n}" for n in range(4000)]
    held = [is_heldout(t, 0.1) for t in texts]
    assert held == [is_heldout(t, 0.1) for t in texts] and 300 < sum(held) < 500
    assert all(is_heldout(t, 0.3) for t, h in zip(texts, held, strict=True) if h)
    assert not any(is_heldout(t, 0.0) for t in texts)
