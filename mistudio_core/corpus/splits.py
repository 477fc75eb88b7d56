"""Which documents are evidence and which are kept back to judge explanations.

The split is a function of the text alone, so that every service, run and machine agrees and two
copies of one text never stand on both sides.
"""

from __future__ import annotations

import hashlib

JUDGE_SHARE = 1 / 3
"""Share of documents that only judge; the others are evidence."""


def is_judge(text: str) -> bool:
    """Whether a document is kept back: its SHA-256 as a number in 0..1 lies below JUDGE_SHARE."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < JUDGE_SHARE * 2.0**64
