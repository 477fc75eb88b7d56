"""Full-text search: scripts with and without blanks, hostile words, ranking, bounds, and a damaged table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistudio_core.corpus.fulltext import Words, snippet
from mistudio_core.errors import Corrupt, InvalidInput, LimitReached
from mistudio_find import table as tables
from mistudio_find.filters import compile_filter
from mistudio_find.table import ALL, FeatureTable, TableWriter
from tests.support.analyses import feature

TEXTS = [
    "the quick brown fox",
    "東京都は日本の首都です",
    "สวัสดีชาวโลก ยินดีต้อนรับ",
    "Schöne Größe im Café",
    "हिन्दी में लिखा",
    "ＦＵＬＬ　ｗｉｄｔｈ and ﬁne",
    "x\x00y lone\ud800surrogate",
    "",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "features.db"
    with TableWriter(path, features=len(TEXTS)) as writer:
        for place, text in enumerate(TEXTS):
            writer.add(place, feature(place, [text], pattern_keywords=["fox"] if place == 3 else []))
    return FeatureTable(path)


def found(table, query):
    hits, total = table.search(Words.parse("query", query).match, ALL, 10)
    assert total == len(hits)
    return [place for _, place in hits]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("quick BROWN", 0),
        ('"brown fox"', 0),
        ("qui", None),
        ("(quick)*", 0),
        ("東京", 1),
        ("首都", 1),
        ("本の首", 1),
        ("ชาวโลก", 2),
        ("schone grosse", None),
        ("schone große", 3),
        ("cafe", 3),
        ("हिन्दी", 4),
        ("full width", 5),
        ("fine", 5),
        ("lone", 6),
        ("brown quick wolf", None),
        ("京東", None),
    ],
)
def test_words_are_found_in_every_script(table, query, place):
    assert found(table, query) == ([] if place is None else [place])


def test_keywords_count_more_than_texts(table):
    assert found(table, "fox") == [3, 0]


def test_a_filter_narrows_a_search(table):
    where = compile_filter("feature_id < 3")
    assert table.search(Words.parse("query", "fox").match, where, 10)[0][0][1] == 0


@pytest.mark.parametrize("query", ["", "   ", "!!!", '"', "* *", " ".join(f"w{i}" for i in range(33))])
def test_a_query_without_words_or_with_too_many_is_refused(query):
    with pytest.raises(InvalidInput, match="query"):
        Words.parse("query", query)


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from('"*^:(){}+-NEAR AND OR NOT')), max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_query_is_a_syntax_error(table, query):
    try:
        words = Words.parse("query", query)
    except InvalidInput:
        return
    table.search(words.match, ALL, 10)


def test_more_hits_than_are_ranked_are_the_first_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CANDIDATES", 3)
    with TableWriter(tmp_path / "features.db", features=9) as writer:
        for place in range(9):
            writer.add(place, feature(place, ["common " * (place + 1)]))
    hits, total = FeatureTable(tmp_path / "features.db").search('"common"', ALL, 10)
    assert sorted(place for _, place in hits) == [0, 1, 2]
    assert total == 3


def test_what_is_indexed_is_bounded(tmp_path):
    texts = ["early " + "word " * 5000, "late text"]
    with TableWriter(tmp_path / "features.db", features=1) as writer:
        writer.add(0, feature(0, texts))
    table = FeatureTable(tmp_path / "features.db")
    assert table.search('"early"', ALL, 1)[1] == 1
    assert table.search('"late"', ALL, 1)[1] == 0


def test_old_records_without_the_newer_fields_are_taken(tmp_path):
    with TableWriter(tmp_path / "features.db", features=1) as writer:
        writer.add(0, {"feature_id": 7, "coherence_score": 0.5, "driving_tokens": [{"word": "old", "share": 1.0}]})
    table = FeatureTable(tmp_path / "features.db")
    assert table.select(compile_filter("feature_id = 7 AND NOT confidence > 0"), ALL, 0, 1) == ([0], 1)


def test_a_file_that_is_no_table_is_corrupt(tmp_path):
    (tmp_path / "features.db").write_bytes(b"no table at all" * 1000)
    with pytest.raises(Corrupt, match="Run the Find job again"):
        FeatureTable(tmp_path / "features.db")


def test_a_query_that_takes_too_long_is_ended(table, monkeypatch):
    monkeypatch.setattr(tables, "QUERY_SECONDS", -1.0)
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) FROM n"
    with pytest.raises(LimitReached, match="Ask for less"):
        table.select(tables.Sql(f"({slow})"), ALL, 0, 1)


def test_the_same_records_make_the_same_bytes(tmp_path):
    for name in ("a.db", "b.db"):
        with TableWriter(tmp_path / name, features=50) as writer:
            for place in range(50):
                writer.add(place, feature(place, [f"text number {place}"], semantic_tags=["tag", f"t{place % 3}"]))
    assert (tmp_path / "a.db").read_bytes() == (tmp_path / "b.db").read_bytes()


def test_a_snippet_shows_the_words():
    texts = ["nothing here", "x " * 200 + "the needle in it " + "y " * 200]
    shown = snippet(texts, Words.parse("query", "needle"))
    assert "needle" in shown
    assert len(shown) < 220
    assert snippet(texts, Words.parse("query", "absent")) == "nothing here"
    assert snippet([], Words.parse("query", "absent")) == ""
