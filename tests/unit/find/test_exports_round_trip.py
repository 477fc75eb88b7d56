"""Every form is read back and compared with the records it was made from, field by field."""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import finding_pb2
from pyarrow import parquet
from safetensors.numpy import load_file

from mistudio_find.exports import FORMATS
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make
from mistudio_find.exports.safety import xml_visible
from mistudio_find.exports.schema import FEATURE, Field
from tests.unit.find.records import analysis_of, dead, hostile, plain, record

RECORDS = [record(3), hostile(1), record(0, top=1, quantiles=0, contrast=0, tokens=1), dead(2)]
WANTED = [plain(r) for r in RECORDS]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysis_of(tmp_path_factory.mktemp("features"), RECORDS)


@pytest.fixture(scope="module")
def files(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    wanted = {f.name: folder / f.filename for f in FORMATS.values() if not f.needs_codes}
    for name, path in wanted.items():
        make(analysis, {name: path})
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in wanted.values())
    return wanted


def kind_of(field: Any) -> str:
    names = {1: "double", 2: "float", 3: "int64", 5: "int32", 8: "bool", 9: "string", 11: "message", 14: "enum"}
    return names[field.type]


def check_fields(fields: tuple[Field, ...], descriptor: Any) -> None:
    assert [f.name for f in fields] == [f.name for f in descriptor.fields]
    for ours, theirs in zip(fields, descriptor.fields, strict=True):
        optional = theirs.has_presence and theirs.message_type is None
        assert (ours.kind, ours.repeated, ours.optional) == (kind_of(theirs), theirs.is_repeated, optional)
        if theirs.message_type:
            check_fields(ours.fields, theirs.message_type)
        if theirs.enum_type:
            prefix = theirs.enum_type.values[0].name.removesuffix("UNSPECIFIED")
            names = [v.name.removeprefix(prefix).lower() for v in theirs.enum_type.values]
            assert ["unspecified", *ours.values[1:]] == names


def test_the_fields_are_those_of_the_contract():
    check_fields(FEATURE, feature_pb2.Feature.DESCRIPTOR)
    names = [v.name.removeprefix("EXPORT_FORMAT_").lower() for v in finding_pb2.ExportFormat.DESCRIPTOR.values[1:]]
    assert names == list(FORMATS)


def test_json_is_what_find_wrote_and_holds_everything_but_the_judging_texts(analysis: Analysis, files):
    assert files["json"].read_bytes() == analysis.path("feature_analysis.json").read_bytes()
    found = json.loads(files["json"].read_text())
    assert [plain(f) for f in found["features"]] == WANTED
    assert found["features"][0] == {k: v for k, v in RECORDS[0].items() if k != "judge_texts"}


def read_element(element: ET.Element, fields: tuple[Field, ...]) -> dict[str, Any]:
    """A message back from its element."""
    read = {"bool": lambda v: v == "true", "int32": int, "int64": int, "float": np.float32, "double": float}
    out: dict[str, Any] = {}
    for field in fields:
        child = element.find(field.name)
        if field.kind == "message":
            parts = [read_element(e, field.fields) for e in (child if field.repeated else [child])]
            out[field.name] = parts if field.repeated else parts[0]
        elif field.repeated and field.is_number:
            out[field.name] = [float(read[field.kind](v)) for v in (child.text or "").split()]
        elif field.repeated:
            out[field.name] = [v.text or "" for v in child]
        elif field.kind == "string":
            out[field.name] = child.text or ""
        else:
            given = element.get(field.name)
            out[field.name] = None if given is None else read.get(field.kind, str)(given)
    return out


def visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: visible(v) for k, v in value.items()}
    return (
        [visible(v) for v in value] if isinstance(value, list) else xml_visible(value) if str is type(value) else value
    )


def test_xml_holds_every_field(files):
    root = ET.fromstring(files["xml"].read_bytes())
    assert [read_element(e, FEATURE) for e in root.find("features")] == visible(WANTED)
    assert root.find("job_metadata/lineage/hook_name").text == "blocks.3.hook_resid_post"


def test_parquet_holds_every_field(files):
    table = parquet.read_table(files["parquet"])
    assert [plain(row) for row in table.to_pylist()] == WANTED
    assert json.loads(table.schema.metadata[b"job_metadata"])["total_features"] == len(RECORDS)
    assert table.schema.field("top_activations").type.value_type.field("activations").type.value_type == "float"


def read_columns(tensors: dict[str, np.ndarray], fields: tuple[Field, ...], prefix: str, rows: range) -> list[Any]:
    """Messages back from flat columns."""
    columns = []
    for field in fields:
        name = prefix + field.name
        columns.append(read_column(tensors, field, name, rows))
    return [{f.name: v for f, v in zip(fields, values, strict=True)} for values in zip(*columns, strict=True)]


def read_column(tensors: dict[str, np.ndarray], field: Field, name: str, rows: range) -> list[Any]:
    if field.repeated:
        offsets = tensors[f"{name}.offsets"]
        spans = [range(int(offsets[r]), int(offsets[r + 1])) for r in rows]
        inside = range(spans[0].start, spans[-1].stop) if spans else range(0)
        single = Field(field.name, field.kind, fields=field.fields)
        flat = read_column(tensors, single, f"{name}.text" if field.kind == "string" else name, inside)
        return [flat[s.start - inside.start : s.stop - inside.start] for s in spans]
    if field.kind == "message":
        return read_columns(tensors, field.fields, f"{name}.", rows)
    if field.kind == "string":
        offsets, data = (
            tensors[f"{name}.offsets"],
            tensors[name.removesuffix(".text") if f"{name}" not in tensors else name],
        )
        return [data[offsets[r] : offsets[r + 1]].tobytes().decode() for r in rows]
    values = [tensors[name][r].item() for r in rows]
    if field.values:
        return [field.values[v] for v in values]
    return [None if field.optional and math.isnan(v) else v for v in values]


def test_safetensors_and_pytorch_hold_every_field(files):
    tensors = load_file(files["safetensors"])
    assert read_columns(tensors, FEATURE, "", range(len(RECORDS))) == WANTED
    for mapped in (False, True):
        loaded = torch.load(files["pytorch"], weights_only=True, mmap=mapped)
        assert {k: repr(v.numpy().tobytes()) for k, v in loaded.items()} == {
            k: repr(v.tobytes()) for k, v in tensors.items()
        }
        assert all(loaded[k].numpy().dtype == v.dtype and loaded[k].shape == v.shape for k, v in tensors.items())
    counts = loaded["activation_statistics.histogram_counts.padded"]
    assert counts.tolist()[0] == WANTED[0]["activation_statistics"]["histogram_counts"]
    assert counts.shape == (4, 20) and set(counts[3].tolist()) == {-1}
    strengths = loaded["top_activations.activation_strength.padded"]
    assert strengths.shape == (4, 20) and strengths[2, 0] == WANTED[2]["top_activations"][0]["activation_strength"]
    assert torch.isnan(strengths[2, 1:]).all()


def test_csv_holds_every_figure(files):
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_bytes().decode(), newline="")))
    for row, wanted in zip(rows, WANTED, strict=True):
        flat = wanted | wanted["activation_statistics"] | wanted["spread"]
        for name, value in flat.items():
            if isinstance(value, bool):
                assert row[name] == str(value).lower()
            elif isinstance(value, int | float):
                assert float(row[name]) == value
            elif value is None:
                assert row[name] == ""
        for name in ("histogram_edges", "histogram_counts", "tenths"):
            assert [float(v) for v in row[name].split("; ") if v] == flat[name]
        for name in ("nearest_by_decoder", "nearest_by_activation"):
            found = [tuple(map(float, part.split())) for part in row[name].split("; ") if part]
            assert found == [(n["feature_id"], n["similarity"]) for n in wanted[name]]
        assert int(row["top_activations_count"]) == len(wanted["top_activations"])
    figures = [float(part.split("=")[1].split()[1]) for part in rows[0]["associations"].split("; ")]
    assert figures == [a["auroc"] for a in WANTED[0]["associations"]]


def test_txt_shows_every_scalar_figure_and_says_what_it_leaves_out(files):
    text = files["txt"].read_text()
    assert "leaves out" in text
    wanted = WANTED[0]
    for value in (*wanted.values(), *wanted["activation_statistics"].values()):
        if isinstance(value, float):
            assert str(value) in text
    assert "Features that never fire (1)\n2\n" in text


def test_zip_holds_every_single_file_form_byte_for_byte(files):
    with zipfile.ZipFile(files["zip"]) as archive:
        assert archive.testzip() is None
        names = {f.filename: f.name for f in FORMATS.values() if f.in_bundle}
        assert set(archive.namelist()) == {*names, "README.txt", "pattern_categories.json", "quality_metrics.json"}
        for filename, name in names.items():
            assert archive.read(filename) == files[name].read_bytes(), name
        readme = archive.read("README.txt").decode()
        assert all(name in readme for name in names)


def test_the_same_analysis_gives_the_same_bytes(analysis: Analysis, files, tmp_path: Path):
    for name, path in files.items():
        make(analysis, {name: tmp_path / path.name})
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), name
