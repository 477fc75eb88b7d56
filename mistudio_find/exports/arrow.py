"""The records as Arrow tables, a block at a time: what Parquet and the tensor forms are made from.

Arrow's own reader parses the lines, without a Python object for each number. Owns the Arrow schema of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mistudio_core.errors import Corrupt
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.schema import FEATURE, Field


def arrow_type(field: Field) -> Any:
    """The Arrow type of a field; enums are strings."""
    import pyarrow as pa

    plain = {
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "string": pa.string(),
        "enum": pa.string(),
    }
    single = pa.struct([(f.name, arrow_type(f)) for f in field.fields]) if field.fields else plain[field.kind]
    return pa.list_(single) if field.repeated else single


def schema() -> Any:
    """The Arrow schema of a feature."""
    import pyarrow as pa

    return pa.schema([(field.name, arrow_type(field)) for field in FEATURE])


def tables(analysis: Analysis) -> Iterator[Any]:
    """Tables with every field, most coherent features first. Raises Corrupt."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    wanted = schema()
    parse = arrow_json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
    for lines in analysis.blocks():
        block = b"".join(lines)
        # one block, one thread: the memory it takes is that of the block
        read = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
        try:
            table = arrow_json.read_json(pa.BufferReader(block), read_options=read, parse_options=parse)
        except pa.ArrowInvalid as error:
            raise Corrupt("A record of the analysis cannot be read. Run the Find job again.") from error
        yield table.select(wanted.names).cast(wanted)
