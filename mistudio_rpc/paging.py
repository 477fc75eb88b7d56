"""Pages of a ranked list that does not change: the token is the rank at which the next page begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from mistudio_core.errors import InvalidInput

M = TypeVar("M", bound=Message)
PAGE_BYTES = 3 * 1024 * 1024
"""Most bytes of a page's items: a page is shorter than asked for rather than over the message limit."""


@dataclass(frozen=True, slots=True)
class RankPage:
    """One page."""

    start: int
    """Rank of its first item, from 0."""
    size: int
    """Items on it."""

    @staticmethod
    def parse(token: str, size: int) -> RankPage:
        """The page that a token names. Raises InvalidInput."""
        if token and not (token.isascii() and token.isdecimal() and len(token) <= 8):
            raise InvalidInput.field("page_token", token, "the next_page_token of an earlier page, or nothing")
        return RankPage(int(token or 0), size)

    def fit(self, items: Iterable[M]) -> list[M]:
        """As many of the items, in order, as go into one message; at least one."""
        kept: list[M] = []
        room = PAGE_BYTES
        for item in items:
            room -= item.ByteSize()
            if kept and room < 0:
                break
            kept.append(item)
        return kept

    def next_token(self, count: int, total: int) -> str:
        """Token of the page after this one, which holds `count` items; empty on the last."""
        after = self.start + count
        return str(after) if count and after < total else ""
