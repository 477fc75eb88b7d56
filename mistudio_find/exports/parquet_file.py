"""Parquet: one row a feature, lists and messages as nested columns, zstd; the job's description as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_find.exports import arrow

METADATA_KEY = "job_metadata"
"""Key of the file's metadata that holds the job's description as JSON."""


class Tables:
    """The file, a row group a table."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Opens `path` for writing."""
        from pyarrow import parquet

        self._metadata = {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)}
        wanted = arrow.schema().with_metadata(self._metadata)
        self._writer = parquet.ParquetWriter(path, wanted, compression="zstd", compression_level=1)

    def add(self, table: Any) -> None:
        """The next records."""
        self._writer.write_table(table.replace_schema_metadata(self._metadata))

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
