"""The history of analyses: which completed ones there are, and which of them a policy lets go.

Owns order, filters and the policy; removing is mistudio_core.jobs.retention's, messages are convert_history.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import COMPLETED, JobRecord

MOST_REMOVED = 1000
"""Analyses that one call removes."""
_PAGE = 500
_LINEAGE = (
    *("model_name", "model_revision", "hook_name", "sae_sha256", "corpus_sha256", "tokenizer_sha256"),
    "architecture",
)


def lineage_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What codes say of where they come from, by the fields of mistudio.find.v1.Lineage."""
    names = {name: name for name in _LINEAGE} | {"corpus_file": "corpus_name"}
    found: dict[str, Any] = {ours: _clean(str(meta[theirs])) for ours, theirs in names.items() if meta.get(theirs)}
    numbers = {"layer": meta.get("layer"), "width": meta.get("d_model")}
    return found | {name: value for name, value in numbers.items() if type(value) is int and value >= 0}


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A completed analysis as far as its job's row tells."""

    job: JobRecord
    """The job."""
    model_name: str
    """The model."""
    sae_sha256: str
    """The SAE."""
    corpus_file: str
    """Name of the corpus; empty for an analysis of an earlier version."""
    corpus_sha256: str
    """Its digest; empty where it is not known."""

    @property
    def completed_at(self) -> datetime:
        """When it completed."""
        return self.job.completed_at or self.job.created_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Only:
    """Which analyses are meant; empty fields mean all."""

    corpus_file: str = ""
    """Name of the corpus."""
    sae_sha256: str = ""
    """Digest of the SAE's weights."""
    model_name: str = ""
    """The model."""

    def has(self, past: Past) -> bool:
        """Whether an analysis is meant."""
        pairs = (
            (self.corpus_file, past.corpus_file),
            (self.sae_sha256, past.sae_sha256),
            (self.model_name, past.model_name),
        )
        return all(not wanted or wanted == found for wanted, found in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Which analyses may go: none where neither is set, those that are both where both are."""

    keep_newest: int | None = None
    """Of each corpus and SAE so many of the newest stay."""
    older_than_days: int | None = None
    """Only those that completed more than so many days ago go."""

    def lets_go(self, pasts: Sequence[Past], now: datetime) -> list[Past]:
        """Those that may go, oldest first. `pasts` are all analyses that are meant."""
        if self.keep_newest is None and self.older_than_days is None:
            return []
        seen: dict[tuple[str, str], int] = {}
        going = []
        for past in sorted(pasts, key=lambda p: (p.completed_at, p.job.job_id), reverse=True):
            group = past.corpus_sha256 or past.corpus_file, past.sae_sha256
            seen[group] = seen.get(group, 0) + 1
            beyond = self.keep_newest is None or seen[group] > self.keep_newest
            days = self.older_than_days
            old = days is None or now - past.completed_at > timedelta(days=days)
            going += [past] if beyond and old else []
        return going[::-1]


async def pasts(queries: JobQueries, read: Callable[[JobRecord], Past], only: Only) -> list[Past]:
    """The completed analyses that are meant, newest first; `read` takes what a job's row tells."""
    found: list[Past] = []
    token = ""
    while True:
        jobs, token, _ = await queries.page("find", status=COMPLETED, size=_PAGE, token=token)
        found += [past for past in map(read, jobs) if only.has(past)]
        if not token:
            return found
