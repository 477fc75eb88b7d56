"""Statistics of corpora against numpy, in bounded memory, and the sentences that follow from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistudio_core.corpus.about import About
from mistudio_core.corpus.columns import LabelCounts, moment
from mistudio_core.corpus.documents import Document, is_heldout, time_text
from mistudio_core.corpus.statistics import (
    CorpusStatistics,
    DistinctSample,
    LabelColumn,
    StatisticsBuilder,
    warnings_of,
)
from mistudio_core.errors import Corrupt, LimitReached
from tests.support.corpora import jsonl, upload


@pytest.mark.parametrize("top", [30, 900, 50_000])
def test_lengths(top: int):
    lengths = np.random.default_rng(1).integers(1, top, 3001)
    builder = StatisticsBuilder()
    for length in lengths.tolist():
        builder.add_text("x" * length)
    found = builder.result(7)
    assert (found.documents, found.bytes, found.max_characters) == (3001, 7, lengths.max())
    assert found.mean_characters == round(float(lengths.mean()), 1)
    exact = int(np.median(lengths))
    assert found.median_characters == exact if top < 1024 else abs(found.median_characters / exact - 1) < 0.002
    assert found.short_documents == int((lengths < 20).sum())
    assert len(builder._lengths) <= min(top, 1024 + 7 * 512)


def test_copies_are_exact_while_few_and_estimated_in_bounded_memory():
    few, many = DistinctSample(), DistinctSample(limit=500)
    for number in range(1000):
        few.add(f"text {number % 700}")
    assert (few.repeated_share, few.different, few.estimated) == (0.3, 700, False)
    for number in range(40_000):
        many.add(f"text {number % 30_000}")
        assert len(many._counts) <= 500
    assert many.estimated
    assert abs(many.repeated_share - 0.25) < 0.06
    assert abs(many.different / 30_000 - 1) < 0.2


def test_labels_groups_and_times(tmp_path: Path):
    records = [{"text": f"text {n}", "kind": "ab"[n % 3 == 0], "who": n % 7, "when": 10**9 + n} for n in range(60)]
    found = upload(
        tmp_path, "a.jsonl", jsonl(*records, {"text": "x"}), labels=("kind",), group="who", time="when"
    ).about
    assert found.statistics.labels == (LabelColumn(name="kind", different=2, labelled=60, values={"a": 40, "b": 20}),)
    assert found.statistics.groups == 7
    assert time_text(found.statistics.first_time or 0) == "2001-09-09T01:46:40Z"
    assert (found.statistics.last_time or 0) - (found.statistics.first_time or 0) == 59_000_000
    assert any("1 documents have no value in label column 'kind'" in warning for warning in found.warnings)
    assert About.parse(found.to_json()) == found


def test_a_column_with_too_many_values_is_no_label():
    counts = LabelCounts(("id",))
    for number in range(LabelCounts.MOST_VALUES):
        counts.add({"id": str(number)})
    with pytest.raises(LimitReached, match="group_column"):
        counts.add({"id": "one more"})


def test_warnings():
    def said(**figures) -> str:
        return " ".join(warnings_of(CorpusStatistics(**{"documents": 10_000, **figures})))

    assert said() == ""
    assert "9,999 documents" in said(documents=9_999)
    assert "Under 10,000" in said(documents=1)
    assert "About 10% of the documents repeat" in said(duplicate_share=0.1, duplicates_estimated=True)
    assert said(duplicate_share=0.09, short_documents=1_999) == ""
    assert "2,000 of 10,000 documents have fewer than 20" in said(short_documents=2_000)


def test_statistics_that_cannot_be_read_are_corrupt():
    for data in (b"", b"[]", b'{"statistics": {}}', b'{"statistics": {"labels": [], "columns": [], "x": 1}}'):
        with pytest.raises(Corrupt):
            About.parse(data)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2024-01-31", "2024-01-31T00:00:00Z"),
        ("20240131", "2024-01-31T00:00:00Z"),
        ("2024-01-31T12:00:00.25+01:00", "2024-01-31T11:00:00.250000Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_000, "2023-11-14T22:13:20Z"),
        ("1700000000.5", "2023-11-14T22:13:20.500000Z"),
        (-1, "1969-12-31T23:59:59Z"),
    ],
)
def test_times(value, text: str):
    assert time_text(moment(value)) == text


@pytest.mark.parametrize("value", ["soon", True, [1], 1e300, float("nan"), "1e5", "99999-01-01"])
def test_no_times(value):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        moment(value)


def test_the_split_knows_the_content_alone():
    texts = [Document(text=f"text {n}", labels={"a": str(n)}, group="g", time=n) for n in range(2000)]
    plain = [is_heldout(f"text {n}", 0.1) for n in range(2000)]
    assert [is_heldout(d.content, 0.1) for d in texts] == plain
    assert Document(text=" text 1\n").content == "text 1"
    chats = {Document(messages=(("user", f"text {n}"),)).content for n in range(50)}
    assert len(chats) == 50
