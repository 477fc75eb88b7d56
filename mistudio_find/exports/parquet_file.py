"""Parquet: one row a feature, lists and messages as nested columns, zstd; the job's description as metadata."""

from __future__ import annotations

import json
from pathlib import Path

from mistudio_find.exports import arrow
from mistudio_find.exports.analysis import Analysis

METADATA_KEY = "job_metadata"
"""Key of the file's metadata that holds the job's description as JSON."""


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file, a row group a block. Raises Corrupt; OSError passes."""
    from pyarrow import parquet

    metadata = {METADATA_KEY: json.dumps(analysis.metadata, ensure_ascii=False)}
    wanted = arrow.schema().with_metadata(metadata)
    with parquet.ParquetWriter(path, wanted, compression="zstd", compression_level=1) as writer:
        for table in arrow.tables(analysis):
            writer.write_table(table.replace_schema_metadata(metadata))
