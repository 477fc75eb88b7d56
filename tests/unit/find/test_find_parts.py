"""Find's parts: CSV safety, hostile text."""

from __future__ import annotations

import json

import pytest

from mistudio_core.jobs.local import LocalContext
from mistudio_find import job
from mistudio_find.config import FindConfig
from mistudio_find.exports.csv_file import cell
from mistudio_find.pages import FeaturePages
from tests.unit.find.stores import Folder, write_store


@pytest.mark.parametrize("trigger", ["=", "+", "-", "@", "＝"])
@pytest.mark.parametrize("lead", ["", " ", ",", ";", '"', "\t", "\r", "\n", "a,", 'b"', "x\n"])
def test_no_cell_begins_a_formula(trigger, lead):
    shown = cell(f"{lead}{trigger}cmd|' /C calc'!A0")
    assert shown.startswith('"')
    assert shown.endswith('"')
    inside = shown[1:-1].replace('""', '"')
    for part in inside.replace(";", ",").replace('"', ",").replace("\ufffd", ",").split(","):
        assert not part.strip().startswith(trigger)


def test_numbers_stay_numbers_and_controls_vanish():
    assert cell(-1.5) == "-1.5"
    assert cell(True) == "true"
    assert "\u202e" not in cell("a\u202eb\x00")


def test_hostile_corpus_stays_data(tmp_path):
    hostile = ["=1+1", "<script>alert(1)</script> token", "\u202eevil token", "a\x00b token", '"},{"x": token']
    write_store(tmp_path / "codes", [(h, f"{h} {i}") for i in range(20) for h in hostile])
    context = LocalContext(tmp_path / "job", inputs={"codes": Folder(tmp_path / "codes")})
    job.run(FindConfig(), context)
    for line in context.reader("analysis").read_bytes("features.jsonl").splitlines():
        json.loads(line)
    assert FeaturePages(context.reader("analysis")).feature(0)["top_activations"]
