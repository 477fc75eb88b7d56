"""Pages of ranked lists: by count, and by what fits one message."""

from __future__ import annotations

import pytest
from mistudio.feature.v1 import feature_pb2

from mistudio_core.errors import InvalidInput
from mistudio_find.config import FindConfig
from mistudio_rpc.paging import PAGE_BYTES, RankPage


def features(count: int, text: int) -> list[feature_pb2.Feature]:
    return [feature_pb2.Feature(feature_id=i, contrast_texts=["x" * text]) for i in range(count)]


def test_a_page_is_shorter_than_asked_rather_than_too_large():
    page = RankPage.parse("", 500)
    kept = page.fit(features(500, 100_000))
    assert 0 < len(kept) < 500
    assert sum(f.ByteSize() for f in kept) <= PAGE_BYTES
    assert page.next_token(len(kept), 500) == str(len(kept))


def test_one_item_is_always_sent():
    assert len(RankPage.parse("", 10).fit(features(3, 4_000_000))) == 1


def test_small_pages_go_by_count_and_end():
    page = RankPage.parse("8", 2)
    assert page.start == 8
    assert page.next_token(2, 10) == ""
    assert page.next_token(2, 11) == "10"
    assert page.next_token(0, 11) == ""


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "٣", "123456789"])
def test_a_token_of_nobody_is_refused(token: str):
    with pytest.raises(InvalidInput, match="page_token"):
        RankPage.parse(token, 10)


def test_evidence_that_would_not_fit_a_message_is_refused_at_the_start():
    with pytest.raises(InvalidInput, match="100,000 tokens"):
        FindConfig(top_texts=200, context_tokens=512)
