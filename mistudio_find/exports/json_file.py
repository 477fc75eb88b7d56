"""JSON: `feature_analysis.json`, the published form, with every key that a record has.

Find writes this file itself; here it is made again from the records, byte for byte the same.
"""

from __future__ import annotations

from pathlib import Path

from mistudio_find.exports.analysis import Analysis
from mistudio_find.outputs import analysis_head, published


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file. Raises Corrupt; OSError passes."""
    first = True
    with path.open("wb") as handle:
        handle.write(analysis_head(analysis.metadata))
        for lines in analysis.blocks():
            for line in lines:
                handle.write((b"\n" if first else b",\n") + published(line))
                first = False
        handle.write(b"\n]}\n")
