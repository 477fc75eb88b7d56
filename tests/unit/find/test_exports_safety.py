"""Exports of hostile text and of analyses that are not whole."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import xml.parsers.expat
from pathlib import Path

import pytest

from mistudio_core.errors import Corrupt
from mistudio_find.exports import FORMATS
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make
from mistudio_find.exports.safety import spreadsheet_text, terminal_visible, xml_escape, xml_visible
from tests.unit.find.records import HOSTILE, Files, analysis_of, hostile, record, write_features

MADE = [f.name for f in FORMATS.values() if not f.needs_codes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostile")
    analysis = analysis_of(folder / "f", [hostile(5)])
    wanted = {name: folder / FORMATS[name].filename for name in ("csv", "xml", "txt")}
    make(analysis, wanted)
    return wanted


def test_xml_has_no_declarations_and_parses_to_the_visible_text(files: dict[str, Path]):
    data = files["xml"].read_bytes()
    assert b"<!" not in data and b"<?" not in data[5:]
    declared, texts = [], []
    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = lambda *given: declared.append(given)
    parser.CharacterDataHandler = texts.append
    parser.Parse(data, True)
    assert declared == []
    assert all(xml_visible(text) in "".join(texts) for text in HOSTILE)


@pytest.mark.parametrize("text", ["", "a&b<c>]]>d", "\r\n\r", "\x00\x1b\x0c", "\ufffe\uffff", "é\ue000🙂\x85\u2028"])
def test_escaped_xml_reads_back_as_the_visible_text(text: str):
    import xml.etree.ElementTree as ET

    assert (ET.fromstring(f"<t>{xml_escape(text)}</t>").text or "") == xml_visible(text)


def test_nothing_in_the_report_moves_a_terminal_or_turns_text_around(files: dict[str, Path]):
    text = files["txt"].read_text()
    kinds = {unicodedata.category(c) for c in text if c != "\n"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert "␛[31mred␀" in text and "a<U+202E>b<U+2066>c" in text and "line␍␊break␉tab" in text


def test_terminal_text_is_one_line():
    assert terminal_visible("\x9b31m\u200bx\U000e0041") == "<U+009B>31m<U+200B>x<U+E0041>"


def test_no_cell_of_a_hostile_analysis_begins_a_formula(files: dict[str, Path]):
    rows = list(csv.reader(io.StringIO(files["csv"].read_bytes().decode(), newline="")))
    assert len(rows) == 2 and len(rows[0]) == len(rows[1])
    for name, value in zip(*rows, strict=True):
        number = re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value)
        assert number or not value.lstrip().startswith(("=", "+", "-", "@")), name
        for part in re.split(r"[,;|\t\r\n\"]", value):
            assert not re.match(r"\s*[=+@]", part), name


def test_long_cells_are_cut_before_they_are_cleaned():
    assert spreadsheet_text("=" * 9000, 10) == "\"'" + "=" * 10 + '"'


@pytest.mark.parametrize("name", MADE)
def test_an_analysis_without_features_exports(name: str, tmp_path: Path):
    analysis = analysis_of(tmp_path / "f", [])
    (tmp_path / "out").mkdir()
    make(analysis, {name: tmp_path / "out" / "file"})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]


# not json: its bytes are those of the records, which the store's digests vouch for
@pytest.mark.parametrize("name", [name for name in MADE if name != "json"])
@pytest.mark.parametrize("line", [b'{"feature_id":1,"top_activations":"none"}\n', b"{nonsense\n", b"[1]\n"])
def test_a_record_that_is_none_is_refused(name: str, line: bytes, tmp_path: Path):
    folder = write_features(tmp_path / "f", [record(0, top=1, quantiles=1, contrast=1), {**record(1), "dead": True}])
    lines = (folder / "features.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "features.jsonl").write_bytes(lines[0] + line.rjust(len(lines[1])))
    with pytest.raises(Corrupt):
        make(Analysis(Files(folder)), {name: tmp_path / "out"})


@pytest.mark.parametrize("name", MADE)
def test_missing_records_are_noticed(name: str, tmp_path: Path):
    folder = write_features(tmp_path / "f", [record(0, top=1, quantiles=0, contrast=0), record(1, top=1)])
    lines = (folder / "features.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "features.jsonl").write_bytes(lines[0])
    with pytest.raises(Corrupt):
        make(Analysis(Files(folder)), {name: tmp_path / "out"})
