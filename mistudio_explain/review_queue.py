"""What people should look at, in the order in which they should: a list over one run or many.

Most urgent first: requires_review, then concerning, then the lowest quality. What a person has decided
about no longer waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mistudio_core.jobs.reviews import ReviewRecord
from mistudio_explain.table import WAITING, ExplanationTable


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """An explanation that waits for a person; smaller is more urgent."""

    rank: int
    """0 for requires_review, 1 for concerning, 2 for the others."""
    quality: float
    """Its quality; -1 where it failed."""
    job_id: str
    """The run."""
    feature_id: int
    """The feature."""


def waiting(runs: Iterable[tuple[str, ExplanationTable]], reviews: Sequence[ReviewRecord]) -> list[Waiting]:
    """What waits in some runs, most urgent first; `reviews` are the verdicts that there are."""
    decided = {(review.job_id, review.feature_id) for review in reviews}
    found = [
        Waiting(2 - urgency, quality, job_id, feature_id)
        for job_id, table in runs
        for urgency, quality, feature_id in table.places(WAITING)
        if (job_id, feature_id) not in decided
    ]
    return sorted(found)
