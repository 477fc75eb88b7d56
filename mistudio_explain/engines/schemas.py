"""JSON schemas in the parts that providers' strict answers allow: no lengths, no counts, no bounds.

What is left out is checked when the answer is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOUNDS = frozenset(
    ("maxLength", "minLength", "maxItems", "minItems", "minimum", "maximum", "pattern", "uniqueItems", "multipleOf")
)


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without bounds, at every depth; properties of those names stay."""
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: plain_schema(inner) for name, inner in value.items()}
        elif key not in _BOUNDS:
            found[key] = plain_schema(value) if isinstance(value, Mapping) else value
    return found
