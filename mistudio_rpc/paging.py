"""Pages of a ranked list that does not change: the token is the rank at which the next page begins."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio_core.errors import InvalidInput


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

    def next_token(self, total: int) -> str:
        """Token of the page after this one; empty on the last."""
        return str(self.start + self.size) if self.start + self.size < total else ""
