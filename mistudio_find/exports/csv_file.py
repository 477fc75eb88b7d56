"""CSV: one row a feature, safe to open in a spreadsheet.

Every text cell is quoted and defused (safety.py); numbers stay numbers. Holds every figure of a feature and
its lists as text; of its texts only the first, without tokens. The columns that end in _count tell how many
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from mistudio_find.exports.safety import spreadsheet_text
from mistudio_find.exports.schema import complete

_LONGEST = 2000
_LONGEST_LIST = 8000
_PARTS = "; "
_ASSOCIATION = itemgetter("auroc", "lift", "q_value", "documents")


def cell(value: object, longest: int = _LONGEST) -> str:
    """One cell. Numbers and booleans as they are, None empty; texts cleaned, prefixed, quoted."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return spreadsheet_text(str(value), longest)


def _texts(values: list[Any]) -> str:
    return cell(_PARTS.join(values), _LONGEST_LIST)


def _numbers(values: list[Any]) -> str:
    """Digits need no defusing."""
    return f'"{_PARTS.join(map(str, values))}"'


def _pairs(name: str, *figures: str) -> Callable[[list[dict[str, Any]]], str]:
    """Items of a list as `name figure figure; ...`."""
    chosen = itemgetter(name, *figures)

    def shown(items: list[dict[str, Any]]) -> str:
        return _texts([" ".join(map(str, chosen(item))) for item in items])

    return shown


def _figures(*names: str) -> Callable[[list[dict[str, Any]]], str]:
    """Items of a list as `figure figure; ...`; the first one is never negative."""
    chosen = itemgetter(*names)

    def shown(items: list[dict[str, Any]]) -> str:
        return _numbers([" ".join(map(str, chosen(item))) for item in items])

    return shown


def _association(items: list[dict[str, Any]]) -> str:
    return _texts([" ".join([f"{i['column']}={i['value']}", *map(repr, _ASSOCIATION(i))]) for i in items])


_PLAIN = (
    *("feature_id", "coherence_score", "quality_level", "pattern_category", "category_confidence", "complexity"),
    "dead",
)
_STATISTICS = ("mean", "std", "max", "frequency", "count", "documents")
_MORE = ("confidence", "importance", "diversity", "map_x", "map_y", "near_contrast_texts", "sae_sha256")
_SPREAD = ("first_token_share", "document_share", "tokens_a_document")
_LISTS: dict[str, Callable[[list[Any]], str]] = {
    "semantic_tags": _texts,
    "behavioral_indicators": _pairs("name", "score"),
    "complexity_measures": _pairs("name", "score"),
    "driving_tokens": _pairs("text", "count", "share", "lift"),
    "driving_phrases": _pairs("text", "count", "share", "lift"),
    "outliers": _figures("document", "position", "activation", "deviations"),
    "nearest_by_decoder": _figures("feature_id", "similarity"),
    "nearest_by_activation": _figures("feature_id", "similarity"),
    "promoted_tokens": _pairs("token", "token_id", "effect"),
    "suppressed_tokens": _pairs("token", "token_id", "effect"),
    "associations": _association,
}
_COUNTED = ("top_activations", "quantile_activations", "contrast_texts")
COLUMNS = (
    *(*_PLAIN, *_STATISTICS, "pattern_keywords", "top_text", "top_context"),
    *("skew", "histogram_edges", "histogram_counts", *_MORE, "tenths", *_SPREAD, *_LISTS),
    *(f"{name}_count" for name in _COUNTED),
)
"""Names of the columns."""
HEADER = ",".join(f'"{name}"' for name in COLUMNS) + "\r\n"
"""First row."""


def csv_row(record: Mapping[str, Any]) -> str:
    """The row of one feature."""
    record = complete(record)
    top = record["top_activations"][0] if record["top_activations"] else {"text": "", "context": ""}
    statistics, spread = record["activation_statistics"], record["spread"]
    cells = [
        *(cell(record[name]) for name in _PLAIN),
        *(cell(statistics[name]) for name in _STATISTICS),
        cell(" ".join(record["pattern_keywords"])),
        cell(top["text"]),
        cell(top["context"]),
        cell(statistics["skew"]),
        *(_numbers(statistics[name]) for name in ("histogram_edges", "histogram_counts")),
        *(cell(record[name]) for name in _MORE),
        _numbers(spread["tenths"]),
        *(cell(spread[name]) for name in _SPREAD),
        *(shown(record[name]) for name, shown in _LISTS.items()),
        *(cell(len(record[name])) for name in _COUNTED),
    ]
    return ",".join(cells) + "\r\n"


class Text:
    """The file as text."""

    def head(self, _metadata: Mapping[str, Any]) -> str:
        """The first row."""
        return HEADER

    def entry(self, record: Mapping[str, Any]) -> str:
        """The row of one feature."""
        return csv_row(record)

    def tail(self) -> str:
        """Nothing."""
        return ""
