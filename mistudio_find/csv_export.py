"""The CSV form of an analysis: one row a feature, safe to open in a spreadsheet.

Every text cell is quoted, and prefixed with ' where a spreadsheet would read a formula, also after
a delimiter or line break inside. Numbers stay numbers. `features.jsonl` beside it is lossless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_COLUMNS = (
    "feature_id",
    "coherence_score",
    "quality_level",
    "pattern_category",
    "category_confidence",
    "complexity",
    "dead",
    "mean",
    "std",
    "max",
    "frequency",
    "count",
    "documents",
    "pattern_keywords",
    "top_text",
    "top_context",
)
HEADER = ",".join(f'"{name}"' for name in _COLUMNS) + "\r\n"
"""First row."""
_FORMULA = re.compile(r"(^|[,;|\t\r\n\"'])(\s*)([=+\-@＝＋－＠])")
# Spreadsheets cannot show them and some parse around them: C0, C1, bidi controls, the byte-order mark.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_LONGEST = 2000
_SPACES = str.maketrans("\t\r\n", "   ")


def cell(value: object) -> str:
    """One cell. Numbers and booleans as they are; texts cleaned, prefixed, quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = _INVISIBLE.sub("\ufffd", str(value)[:_LONGEST].translate(_SPACES))
    text = _FORMULA.sub(r"\1'\2\3", text)
    return '"' + text.replace('"', '""') + '"'


def csv_row(record: Mapping[str, Any]) -> str:
    """The row of one feature."""
    top = record["top_activations"][0] if record["top_activations"] else {"text": "", "context": ""}
    statistics = record["activation_statistics"]
    values = [
        *(record[name] for name in _COLUMNS[:7]),
        *(statistics[name] for name in _COLUMNS[7:13]),
        " ".join(record["pattern_keywords"]),
        top["text"],
        top["context"],
    ]
    return ",".join(cell(v) for v in values) + "\r\n"
