"""JSON: `feature_analysis.json`, the published form, with every key that a record has.

Find writes this file itself; here it is made again from the records, byte for byte the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from mistudio_find.exports.analysis import Analysis

# Unescaped quotes end a string, so these bytes can only be the key itself.
_JUDGING = b',"judge_texts":['


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file. Raises Corrupt; OSError passes."""
    metadata = json.dumps(analysis.metadata, ensure_ascii=False, separators=(",", ":"))
    first = True
    with path.open("wb") as handle:
        handle.write(f'{{"job_metadata":{metadata},"features":['.encode())
        for lines in analysis.blocks():
            for line in lines:
                end = line.rfind(_JUDGING)
                handle.write((b"\n" if first else b",\n") + (line[:end] if end >= 0 else line.rstrip()[:-1]) + b"}")
                first = False
        handle.write(b"\n]}\n")
