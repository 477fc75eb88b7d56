"""safetensors: the columns of `columns.py`, written as they stream; the job's description as metadata.

Layout: https://github.com/huggingface/safetensors (header length, JSON header, raw data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_find.exports.columns import Column, pieces

_NAMES = {"bool": "BOOL", "uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64"}


def write_columns(columns: Sequence[Column], metadata: Mapping[str, Any], path: Path) -> None:
    """Writes the file. OSError passes."""
    # wide items first, so that every tensor is aligned
    ordered = sorted(columns, key=lambda c: (-_width(c.dtype), c.name))
    header: dict[str, object] = {
        "__metadata__": {"format": "pt", "job_metadata": json.dumps(metadata, ensure_ascii=False)}
    }
    end = 0
    for column in ordered:
        size = _width(column.dtype) * math.prod(column.shape)
        place = {"dtype": _NAMES[column.dtype], "shape": list(column.shape), "data_offsets": [end, end + size]}
        header[column.name] = place
        end += size
    body = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    with path.open("wb") as handle:
        handle.write(len(body).to_bytes(8, "little") + body)
        for column in ordered:
            handle.writelines(pieces(column))


def _width(dtype: str) -> int:
    return np.dtype(dtype).itemsize
