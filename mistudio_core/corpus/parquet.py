"""Rows of a Parquet file as JSON values, streamed by row group.

`rows` reads in this process; `isolated_rows` in a child of its own with bounded memory, since the file
comes from outside and the decoder is native code. `python -m mistudio_core.corpus.parquet` is that child.
pyarrow is imported inside functions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from mistudio_core.corpus.documents import MAX_LINE_BYTES
from mistudio_core.corpus.unpack import Inflation, needs_package, unreadable
from mistudio_core.errors import InvalidInput

CHILD_BYTES = 2 * 1024**3
"""Address space of the child: a row group's pages and pyarrow itself."""
_ROWS_A_BATCH = 128
_UNREADABLE, _NO_MEMORY = 3, 4
_STDERR_BYTES = 4096


def rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every row, with those of the wanted columns that there are; all columns where none of them is there.

    The first item is a row of nothing but names, each with None: what columns the file has. Values are
    JSON values; times are ISO 8601. Raises InvalidInput (CORPUS_UNREADABLE), Unsupported.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise needs_package("Parquet files", "pyarrow") from error
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = list(file.schema_arrow.names)
            yield dict.fromkeys(names)
            read = [name for name in names if name in wanted]
            for batch in file.iter_batches(batch_size=_ROWS_A_BATCH, columns=read, use_threads=False):
                values = [_values(pa, column) for column in batch.columns]
                yield from (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*values, strict=True))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OSError, UnicodeDecodeError) as error:
        raise unreadable(path.name, str(error).partition("\n")[0]) from error


def _values(pa: Any, column: Any) -> list[Any]:
    """The values of a column as JSON has them."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":  # finer than Python's datetime
        column = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    scalar = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return values if any(is_kind(kind) for is_kind in scalar) else [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()  # files of old writers call their strings bytes
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value


def isolated_rows(path: Path, name: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`rows` of an uploaded file, read by a child process; `name` is the file's, for messages.

    Raises InvalidInput (CORPUS_UNREADABLE), LimitReached (TOO_LARGE), Unsupported.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise needs_package("Parquet files", "pyarrow")
    inflation = Inflation(name)
    inflation.bytes_in = path.stat().st_size
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mistudio_core.corpus.parquet", str(path), *wanted]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        try:
            if child.stdout is None or child.stderr is None:
                raise RuntimeError("the child has no pipes")
            yield from _read(child.stdout, inflation, name)
            problem = child.stderr.read(_STDERR_BYTES).decode("utf-8", "replace").strip()
            code = child.wait()
        finally:
            child.kill()
    if code == _UNREADABLE:
        raise unreadable(name, problem)
    if code:
        raise InvalidInput(
            f"Corpus file '{name}' cannot be read within {CHILD_BYTES // 1024**3} GiB of memory. "
            "Write it with smaller row groups and pages, or as JSONL.",
            reason="CORPUS_UNREADABLE",
            facts={"filename": name, "exit_code": code},
        )


def _read(pipe: IO[bytes], inflation: Inflation, name: str) -> Iterator[dict[str, Any]]:
    while line := pipe.readline(MAX_LINE_BYTES + 1):
        inflation.out(len(line))
        if len(line) > MAX_LINE_BYTES:
            raise unreadable(name, f"a row is longer than {MAX_LINE_BYTES // 1024**2} MiB")
        if not line.endswith(b"\n"):  # the child died; its exit code says why
            return
        yield json.loads(line)


def _child(path: Path, wanted: Sequence[str]) -> int:
    """Writes rows as lines of JSON to stdout; the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for row in rows(path, wanted):
            sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    except MemoryError:  # pyarrow's ArrowMemoryError is one
        return _NO_MEMORY
    except BrokenPipeError:  # the parent has had enough
        return 0
    except InvalidInput as error:
        sys.stderr.write(error.facts.get("why", error.message))
        return _UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1]), sys.argv[2:]))
