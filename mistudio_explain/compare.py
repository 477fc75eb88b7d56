"""Two runs beside each other, over the features that both explained: paired changes and their interval.

Owns the pairing and the figures. Two runs compare where they explain the same SAE, whichever analysis
they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mistudio_core.errors import Unsupported
from mistudio_core.stats import mean_interval
from mistudio_explain.book import review_figures
from mistudio_explain.config import explanation_of
from mistudio_explain.insights import summarise
from mistudio_explain.table import ExplanationTable, Record

_SEED = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One feature in both runs."""

    first: Record
    """In the first run."""
    other: Record
    """In the other one."""

    @property
    def change(self) -> float | None:
        """Quality in the other run less that in the first; None where either failed."""
        if self.first["failure"] or self.other["failure"]:
            return None
        before, after = float(self.first["explanation_quality"]), float(self.other["explanation_quality"])
        return round(after - before, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two runs compare."""

    pairs: Sequence[Pair]
    """Largest change of quality first, those without one last."""
    first: dict[str, Any]
    """`summary_insights` of the first run over the features of both."""
    other: dict[str, Any]
    """Of the other run over the same."""
    average: float
    """Mean change."""
    low: float
    """Lower end of its 95 % interval, bootstrapped over features."""
    high: float
    """Upper end."""
    only_first: int
    """Features that only the first run explained."""
    only_other: int
    """Features that only the other one explained."""


def check_comparable(tables: Sequence[ExplanationTable], job_ids: Sequence[str]) -> None:
    """Raises Unsupported where runs explain different SAEs."""
    digests = [table.about("technical").get("sae_sha256", "") for table in tables]
    if all(digests) and len(set(digests)) > 1:
        raise Unsupported(
            f"comparing {' with '.join(job_ids)}",
            why="they explain different SAEs: one index is not one feature",
            instead="Compare runs over one SAE; mistudio compare matches the features of two analyses.",
        )


def compare(first: Sequence[Record], other: Sequence[Record]) -> Comparison:
    """Compares the records of two runs over one SAE."""
    there = {record["feature_id"]: record for record in other}
    pairs = [Pair(record, there[record["feature_id"]]) for record in first if record["feature_id"] in there]
    pairs.sort(key=lambda p: (p.change is None, -abs(p.change or 0.0), p.first["feature_id"]))
    changes = [change for p in pairs if (change := p.change) is not None]
    low, high = mean_interval(changes, seed=_SEED)
    return Comparison(
        pairs=pairs,
        first=_summary([p.first for p in pairs]),
        other=_summary([p.other for p in pairs]),
        average=sum(changes) / max(1, len(changes)),
        low=low,
        high=high,
        only_first=len(first) - len(pairs),
        only_other=len(other) - len(pairs),
    )


def _summary(records: Sequence[Record]) -> dict[str, Any]:
    return asdict(summarise([explanation_of(record) for record in records])) | review_figures(records)
