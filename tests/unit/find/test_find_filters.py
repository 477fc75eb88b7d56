"""Filters and orders: AIP-160 syntax over the fields of a feature; what cannot be honoured is refused by name."""

from __future__ import annotations

import sqlite3

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from mistudio.feature.v1 import feature_pb2

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_find import fields
from mistudio_find.filters import compile_filter, compile_order
from mistudio_find.table import ALL, IN_ORDER, FeatureTable, TableWriter
from mistudio_rpc.contract import short_name
from tests.support.analyses import feature

RECORDS = [
    feature(0, ["json schema of an api"], semantic_tags=["json", "api"], pattern_keywords=["schema"], importance=0.9),
    feature(
        1, ["the token of a session"], behavioral_indicators=[{"name": "refusal", "score": 0.8}], map_x=0.25, map_y=0.5
    ),
    feature(2, ["Tokens, tokens"], driving_tokens=[{"text": " Token", "count": 3, "share": 0.9, "lift": 4.0}]),
    feature(
        3,
        ["rain in March"],
        associations=[
            {"column": "period", "value": "2026-03", "auroc": 0.9, "lift": 3.0, "q_value": 0.01, "documents": 7},
            {"column": "topic", "value": "Toxic", "auroc": 0.2, "lift": 0.1, "q_value": 0.5, "documents": 9},
        ],
    ),
    feature(4, ["nothing at all"], dead=True, spread={"tenths": [], "first_token_share": 0.5}),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "features.db"
    with TableWriter(path, features=len(RECORDS)) as writer:
        for place, record in enumerate(RECORDS):
            writer.add(place, record)
    return FeatureTable(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("feature_id >= 1 AND feature_id < 3", [1, 2]),
        ("feature_id = 0 OR feature_id = 4 AND dead = false", [0]),  # OR binds closer
        ("(feature_id = 1 AND dead = false) OR feature_id = 4", [1, 4]),
        ("quality_level = excellent", [0, 1, 2]),
        ('quality_level = "good"', [3, 4]),
        ("NOT quality_level = excellent -dead = true", [3]),
        ("pattern_category != technical", [1, 2, 3, 4]),
        ("activation_statistics.skew < -0.25", [0]),
        ("activation_statistics.count:20", [2]),
        ("importance > 0.5", [0]),
        ("NOT importance > 0.5", [1, 2, 3, 4]),
        ("importance != 0.9", [1, 2, 3, 4]),
        ("map_x:* AND map_y = 5e-1", [1]),
        ("spread.first_token_share = 0.5", [4]),
        ("semantic_tags:json", [0]),
        ('semantic_tags:"JSON" pattern_keywords:sch*', [0]),
        ("semantic_tags:*", [0]),
        ('semantic_tags:"*"', []),
        ("behavioral_indicators:refusal", [1]),
        ("behavioral_indicators.refusal >= 0.8", [1]),
        ("behavioral_indicators.refusal > 0.8", []),
        ("driving_tokens:token", [2]),
        ("associations:toxic", [3]),
        ("associations.column:period", [3]),
        ("associations.auroc.2026-03 > 0.8", [3]),
        ('associations.auroc."2026-03" > 0.95', []),
        ("associations.q_value.Toxic = 0.5", [3]),
        ("token", [1, 2]),
        ("token*", [1, 2]),
        ('"json schema"', [0]),
        ('"schema json"', []),
        ("rain OR session", [1, 3]),
        ("-token", [0, 3, 4]),
        ('"dead"', []),
        (r'"\"rain\" in"', [3]),
    ],
)
def test_a_filter_selects(table, text, expected):
    places, total = table.select(compile_filter(text), IN_ORDER, 0, 100)
    assert places == expected
    assert total == len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("feature_id desc", [4, 3, 2, 1, 0]),
        ("activation_statistics.skew, feature_id desc", [0, 1, 2, 3, 4]),
        ("quality_level desc,coherence_score", [4, 3, 2, 1, 0]),
        ("importance", [0, 1, 2, 3, 4]),
        ("importance desc", [0, 1, 2, 3, 4]),
        ("behavioral_indicators.refusal desc", [1, 0, 2, 3, 4]),
        ("associations.auroc.toxic asc", [3, 0, 1, 2, 4]),
    ],
)
def test_an_order_sorts_and_puts_what_has_no_value_last(table, text, expected):
    assert table.select(ALL, compile_order(text), 0, 100)[0] == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nope = 3", "coherence_score"),
        ("coherence_score = high", "allowed: a number"),
        ('coherence_score > "0.5"', "allowed: a number"),
        ("feature_id = 1.5", "a whole number"),
        ("coherence_score > 1e400", "a number"),
        ("quality_level = best", "excellent, good, fair, poor"),
        ("quality_level < good", "= or !="),
        ("dead = 1", "true or false"),
        ("dead > true", "= or !="),
        ("dead", "dead = true"),
        ("semantic_tags = json", "semantic_tags with ':'"),
        ("behavioral_indicators.refusal:0.5", "and a number"),
        ("behavioral_indicators.refusal > much", "a number"),
        ("associations.strength.x > 1", "associations.auroc.<value>"),
        ("a and b", "AND, in capitals"),
        ("NOT NOT a", "NOT, in capitals"),
        ("a OR", "at its end"),
        ("(a", "at its end"),
        ("a == 3", "at character 4"),
        ('"abc', "at character 1"),
        ("!!!", "AIP-160"),
        ('"!!!"', "a letter or a digit"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_what_is_allowed(text, named):
    with pytest.raises(InvalidInput) as caught:
        compile_filter(text)
    assert caught.value.reason == "INVALID_FIELD"
    assert named in caught.value.message


@pytest.mark.parametrize(("text", "named"), [("size(a) > 3", "function size"), ("dead = (true OR false)", "OR dead=b")])
def test_functions_and_composite_values_are_unsupported(text, named):
    with pytest.raises(Unsupported, match=named):
        compile_filter(text)


@pytest.mark.parametrize("text", ["nope", "dead sideways", ",", "feature_id,feature_id", "dead; DROP TABLE features"])
def test_an_order_that_cannot_be_honoured_is_refused(text):
    with pytest.raises(InvalidInput, match="order_by"):
        compile_order(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 2000,
        "(" * 999 + "a" + ")" * 999,
        "-(" * 400 + "a" + ")" * 400,
        "a " * 1000,
        "NOT " * 500,
        '"' * 1999,
        '"' + "\\" * 1999,
        "a." * 1000,
        "a OR " * 400,
        "a" * 2001,
    ],
)
@pytest.mark.timeout(20)  # parsing that backtracks would take minutes
def test_a_hostile_filter_is_refused(text):
    with pytest.raises(InvalidInput):
        compile_filter(text)


@given(st.text(alphabet=st.sampled_from("ab01 \"'\\().,:=<>!-*ANDORT\x00\n日é_{}[]+^"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_filter_or_refused(table, text):
    try:
        where = compile_filter(text)
    except InvalidInput:
        return
    table.select(where, IN_ORDER, 0, 10)


def test_values_never_reach_the_statement(table):
    hostile = "x'; DROP TABLE features; --"
    where = compile_filter(f'semantic_tags:"{hostile}" OR "{hostile}"')
    assert "DROP" not in where.text
    assert table.select(where, IN_ORDER, 0, 10) == ([], 0)
    assert compile_order(f"behavioral_indicators.{hostile.replace(' ', '')}").text.count("?") == 2


def test_the_fields_are_those_of_the_contract():
    for name, scalar in fields.SCALARS.items():
        descriptor, *rest = name.split(".")
        found = feature_pb2.Feature.DESCRIPTOR.fields_by_name[descriptor]
        for part in rest:
            found = found.message_type.fields_by_name[part]
        if found.enum_type:
            assert scalar.values == tuple(short_name(v) for v in found.enum_type.values[1:])
        else:
            kinds = {FieldDescriptor.CPPTYPE_DOUBLE: fields.NUMBER, FieldDescriptor.CPPTYPE_BOOL: fields.TRUTH}
            assert scalar.kind == kinds.get(found.cpp_type, fields.WHOLE), name
    for name, listed in fields.LISTS.items():
        found = feature_pb2.Feature.DESCRIPTOR.fields_by_name[name]
        assert found.is_repeated
        for key in filter(None, (listed.name_key, listed.score_key)):
            assert key in found.message_type.fields_by_name
    association = feature_pb2.Association.DESCRIPTOR.fields_by_name
    assert {*fields.ASSOCIATION_FIGURES, "column", "value"} == set(association)


def test_the_file_cannot_be_written_to(table):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        table._connection.execute("DELETE FROM features")
