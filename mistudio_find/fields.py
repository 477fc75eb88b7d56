"""The fields of a feature that filters and orders may name, with their types.

One table for what writes the query table (table.py) and what reads it (filters.py). Names are
those of mistudio.feature.v1.Feature, enum values its short names in the contract's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NUMBER, WHOLE, TRUTH, CHOICE = "a number", "a whole number", "true or false", "a value"
"""Kinds of scalar fields, in words."""
AUROC, LIFT, Q_VALUE, DOCUMENTS = "auroc", "lift", "q_value", "documents"
ASSOCIATION_FIGURES = (AUROC, LIFT, Q_VALUE, DOCUMENTS)
"""Figures of an association that a filter may compare."""
ASSOCIATIONS = "associations"
"""The field that has figures instead of one score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    """A field with one value a feature."""

    path: str
    """Its name as callers write it, for example `activation_statistics.mean`."""
    kind: str
    """One of the kinds above."""
    values: tuple[str, ...] = ()
    """Allowed values of a CHOICE, in the contract's order."""

    @property
    def column(self) -> str:
        """Its column in the query table."""
        return self.path.replace(".", "_")

    @property
    def allowed(self) -> str:
        """What it may be compared with, in words."""
        return ", ".join(self.values) or self.kind

    def stored(self, record: Mapping[str, Any]) -> float | int | None:
        """Its value in the table: a number; None where the record lacks it."""
        value: Any = record
        for part in self.path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if self.kind == CHOICE:
            return self.values.index(value) if value in self.values else None
        return int(value) if isinstance(value, bool) else value if isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A repeated field of named things, some with a score."""

    path: str
    """Its name as callers write it."""
    name_key: str = ""
    """Key of the name in an element; empty where the element is the name."""
    score_key: str = ""
    """Key of the score; empty where there is none."""

    def stored(self, record: Mapping[str, Any]) -> list[tuple[str, float | None]]:
        """(folded name, score) of every element."""
        found: Sequence[Any] = record.get(self.path) or ()
        if not self.name_key:
            return [(folded(name), None) for name in found]
        return [(folded(item[self.name_key]), item.get(self.score_key)) for item in found if self.name_key in item]


def folded(name: str) -> str:
    """How names are compared: without case and outer blanks, unless they are nothing else."""
    return (name.strip() or name).casefold()


_STATISTICS = ("mean", "std", "frequency", "max", "skew")
_SPREAD = ("first_token_share", "document_share", "tokens_a_document")
_SHARES = ("coherence_score", "category_confidence", "confidence", "importance", "diversity", "map_x", "map_y")
SCALARS: Mapping[str, Scalar] = {
    field.path: field
    for field in (
        Scalar(path="feature_id", kind=WHOLE),
        Scalar(path="quality_level", kind=CHOICE, values=("excellent", "good", "fair", "poor")),
        Scalar(
            path="pattern_category",
            kind=CHOICE,
            values=("technical", "conversational", "behavioral", "temporal", "general"),
        ),
        Scalar(path="complexity", kind=CHOICE, values=("low", "medium", "high")),
        Scalar(path="dead", kind=TRUTH),
        *(Scalar(path=name, kind=NUMBER) for name in _SHARES),
        *(Scalar(path=f"activation_statistics.{name}", kind=NUMBER) for name in _STATISTICS),
        *(Scalar(path=f"activation_statistics.{name}", kind=WHOLE) for name in ("count", "documents")),
        *(Scalar(path=f"spread.{name}", kind=NUMBER) for name in _SPREAD),
    )
}
"""Every field with one value, by name."""
LISTS: Mapping[str, Listed] = {
    field.path: field
    for field in (
        Listed(path="pattern_keywords"),
        Listed(path="semantic_tags"),
        Listed(path="behavioral_indicators", name_key="name", score_key="score"),
        Listed(path="complexity_measures", name_key="name", score_key="score"),
        Listed(path="driving_tokens", name_key="text", score_key="share"),
        Listed(path="driving_phrases", name_key="text", score_key="share"),
        Listed(path="promoted_tokens", name_key="token", score_key="effect"),
        Listed(path="suppressed_tokens", name_key="token", score_key="effect"),
    )
}
"""Every repeated field but associations, by name. A list's number in the table is its place here."""
LIST_NUMBERS: Mapping[str, int] = {name: number for number, name in enumerate(LISTS)}
"""Number of a list in the table."""
SCORED: frozenset[str] = frozenset(name for name, field in LISTS.items() if field.score_key)
"""Lists whose elements have a score."""
NAMES: tuple[str, ...] = (*sorted(SCALARS), *sorted(LISTS), ASSOCIATIONS)
"""Every field that a filter may name."""
