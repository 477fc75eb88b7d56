"""Makes the files of one or several forms from an analysis, reading the records as few times as can be.

Forms of text are written side by side in one pass over the records, Parquet and the tensor forms in one pass
over Arrow tables. A module of a form has `Text`, `Tables`, `write_columns` (tensors) or `write` (the rest).
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mistudio_core.artifacts.files import disk_errors
from mistudio_core.errors import Unsupported
from mistudio_find.exports import FORMATS
from mistudio_find.exports.analysis import Analysis


def make(analysis: Analysis, wanted: Mapping[str, Path], made: Callable[[str], None] = lambda _: None) -> None:
    """Writes the files of `wanted` forms and calls `made(name)` as each is complete.

    Raises Corrupt, DiskFull, Unsupported.
    """
    modules = {name: importlib.import_module(f"{__package__}.{FORMATS[name].module}") for name in wanted}
    texts = {name: module.Text() for name, module in modules.items() if hasattr(module, "Text")}
    tables = {name: m for name, m in modules.items() if hasattr(m, "Tables") or hasattr(m, "write_columns")}
    with disk_errors(next(iter(wanted.values())).parent, "the export"):
        for name in wanted:
            if name not in texts and name not in tables:
                modules[name].write(analysis, wanted[name])
                made(name)
        if tables:
            _tables(analysis, {name: (module, wanted[name]) for name, module in tables.items()}, made)
        if texts:
            _texts(analysis, {wanted[name]: form for name, form in texts.items()})
        for name in texts:
            made(name)


def _texts(analysis: Analysis, forms: Mapping[Path, Any]) -> None:
    with ExitStack() as stack:
        open_forms = [
            (form, stack.enter_context(path.open("w", encoding="utf-8", newline=""))) for path, form in forms.items()
        ]
        for form, handle in open_forms:
            handle.write(form.head(analysis.metadata))
        for record in analysis.records():
            for form, handle in open_forms:
                handle.write(form.entry(record))
        for form, handle in open_forms:
            handle.write(form.tail())


def _tables(analysis: Analysis, forms: Mapping[str, tuple[Any, Path]], made: Callable[[str], None]) -> None:
    from mistudio_find.exports import arrow
    from mistudio_find.exports.columns import ColumnFiles

    whole = {name: form for name, form in forms.items() if hasattr(form[0], "Tables")}
    tensors = {name: form for name, form in forms.items() if name not in whole}
    with tempfile.TemporaryDirectory(prefix=".columns", dir=next(iter(forms.values()))[1].parent) as scratch:
        with ExitStack() as stack:
            sinks: list[Any] = [module.Tables(path, analysis.metadata) for module, path in whole.values()]
            columns = ColumnFiles(Path(scratch))
            for sink in (*sinks, columns):
                stack.callback(sink.close)
            for table in arrow.tables(analysis):
                for sink in (*sinks, *([columns] if tensors else [])):
                    sink.add(table)
        for name in whole:
            made(name)
        for name, (module, path) in tensors.items():
            module.write_columns(columns.columns(), analysis.metadata, path)
            made(name)


def need_codes(analysis: Analysis, form: str) -> Any:
    """The activations behind an analysis, opened. Raises Unsupported where they were not given."""
    from mistudio_torch.codes import CodesReader

    if analysis.codes is None:
        raise Unsupported(
            f"format {form}", why="it needs the activations that were analysed", instead="Choose json or parquet."
        )
    return CodesReader(analysis.codes)
