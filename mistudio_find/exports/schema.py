"""The fields of mistudio.feature.v1.Feature as plain data, for code that knows no messages.

Names, order and kinds are the contract's; a test compares them with its descriptor. Keys of a record that the
contract does not have are no evidence and go into no form but JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mistudio_core.errors import Corrupt


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field; a key of caches, so it is only equal to itself."""

    name: str
    """Its name."""
    kind: str
    """`bool`, `int32`, `int64`, `float`, `double`, `string`, `enum` or `message`."""
    repeated: bool = False
    """Whether it is a list."""
    optional: bool = False
    """Whether it may be missing."""
    fields: tuple[Field, ...] = ()
    """The fields of a message."""
    values: tuple[str, ...] = ()
    """Short names of an enum, by number; the first means not set."""

    @property
    def is_number(self) -> bool:
        """Whether it is a number or a list of numbers."""
        return self.kind in ("int32", "int64", "float", "double")

    def default(self) -> Any:
        """What a record without the field means."""
        if self.repeated:
            return []
        if self.optional:
            return None
        if self.kind == "message":
            return {field.name: field.default() for field in self.fields}
        return {"bool": False, "string": "", "enum": "", "int32": 0, "int64": 0}.get(self.kind, 0.0)


def _numbers(kind: str, *names: str) -> tuple[Field, ...]:
    return tuple(Field(name, kind) for name in names)


QUALITY = ("", "excellent", "good", "fair", "poor")
CATEGORY = ("", "technical", "conversational", "behavioral", "temporal", "general")
COMPLEXITY = ("", "low", "medium", "high")

_TEXT = (
    Field("text", "string"),
    Field("activation_strength", "double"),
    Field("context", "string"),
    Field("tokens", "string", repeated=True),
    Field("document", "int64"),
    Field("position", "int32"),
    Field("activations", "float", repeated=True),
)
_STATISTICS = (
    *_numbers("double", "mean", "std", "frequency", "max"),
    *_numbers("int64", "count", "documents"),
    Field("histogram_edges", "double", repeated=True),
    Field("histogram_counts", "int64", repeated=True),
    Field("skew", "double"),
)
_DRIVER = (Field("text", "string"), Field("count", "int64"), *_numbers("double", "share", "lift"))
_SPREAD = (
    Field("tenths", "int64", repeated=True),
    *_numbers("double", "first_token_share", "document_share", "tokens_a_document"),
)
_OUTLIER = (Field("document", "int64"), Field("position", "int32"), *_numbers("double", "activation", "deviations"))
_NEIGHBOUR = (Field("feature_id", "int32"), Field("similarity", "double"))
_LOGIT = (Field("token", "string"), Field("token_id", "int32"), Field("effect", "double"))
_ASSOCIATION = (
    Field("column", "string"),
    Field("value", "string"),
    *_numbers("double", "auroc", "lift", "q_value"),
    Field("documents", "int64"),
)
_INDICATOR = (Field("name", "string"), Field("score", "double"))


def _list(name: str, fields: tuple[Field, ...]) -> Field:
    return Field(name, "message", repeated=True, fields=fields)


FEATURE = (
    Field("feature_id", "int32"),
    Field("coherence_score", "double"),
    Field("quality_level", "enum", values=QUALITY),
    Field("pattern_category", "enum", values=CATEGORY),
    Field("category_confidence", "double"),
    Field("pattern_keywords", "string", repeated=True),
    _list("top_activations", _TEXT),
    Field("activation_statistics", "message", fields=_STATISTICS),
    Field("dead", "bool"),
    Field("complexity", "enum", values=COMPLEXITY),
    Field("sae_sha256", "string"),
    _list("quantile_activations", _TEXT),
    Field("contrast_texts", "string", repeated=True),
    Field("near_contrast_texts", "int32"),
    *_numbers("double", "confidence", "importance"),
    Field("semantic_tags", "string", repeated=True),
    _list("behavioral_indicators", _INDICATOR),
    _list("complexity_measures", _INDICATOR),
    _list("driving_tokens", _DRIVER),
    _list("driving_phrases", _DRIVER),
    Field("spread", "message", fields=_SPREAD),
    _list("outliers", _OUTLIER),
    Field("diversity", "double"),
    _list("nearest_by_decoder", _NEIGHBOUR),
    _list("nearest_by_activation", _NEIGHBOUR),
    Field("map_x", "double", optional=True),
    Field("map_y", "double", optional=True),
    _list("promoted_tokens", _LOGIT),
    _list("suppressed_tokens", _LOGIT),
    _list("associations", _ASSOCIATION),
)
"""The fields of a feature, in the contract's order."""


def complete(record: Mapping[str, Any], fields: tuple[Field, ...] = FEATURE) -> Mapping[str, Any]:
    """The record with every field of the contract; what it lacks gets the contract's default.

    Keys that the contract does not have stay. Raises Corrupt for a record that cannot be one.
    """
    lacking = [field for field in fields if record.get(field.name) is None]
    if lacking:
        record = {**record, **{field.name: field.default() for field in lacking}}
    for field in fields:
        if field.kind != "message":
            continue
        items = record[field.name] if field.repeated else [record[field.name]]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Corrupt(f"Field {field.name} of a record cannot be read. Run the Find job again.")
        names = _names(field.fields)
        if all(names <= item.keys() for item in items):
            continue
        whole = [complete(item, field.fields) for item in items]
        record = {**record, field.name: whole if field.repeated else whole[0]}
    return record


@lru_cache
def _names(fields: tuple[Field, ...]) -> frozenset[str]:
    return frozenset(field.name for field in fields)
