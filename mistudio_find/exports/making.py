"""Makes the files of one or several forms from an analysis, reading the records as few times as can be.

Forms of text are written side by side in one pass; the tensor forms share their columns. A module of a form
has `Text` (record by record), `write_columns` (tensors) or `write` (everything else).
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
    tensors = {name: module for name, module in modules.items() if hasattr(module, "write_columns")}
    folder = next(iter(wanted.values())).parent
    with disk_errors(folder, "the export"):
        for name in wanted:
            if name not in texts and name not in tensors:
                modules[name].write(analysis, wanted[name])
                made(name)
        if tensors:
            _tensors(analysis, {wanted[name]: module for name, module in tensors.items()})
        for name in tensors:
            made(name)
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


def _tensors(analysis: Analysis, modules: Mapping[Path, Any]) -> None:
    from mistudio_find.exports.columns import ColumnFiles

    parent = next(iter(modules)).parent
    with tempfile.TemporaryDirectory(prefix=".columns", dir=parent) as scratch:
        columns = ColumnFiles(Path(scratch)).write(analysis)
        for path, module in modules.items():
            module.write_columns(columns, analysis.metadata, path)


def need_codes(analysis: Analysis, form: str) -> Any:
    """The activations behind an analysis, opened. Raises Unsupported where they were not given."""
    from mistudio_torch.codes import CodesReader

    if analysis.codes is None:
        raise Unsupported(
            f"format {form}", why="it needs the activations that were analysed", instead="Choose json or parquet."
        )
    return CodesReader(analysis.codes)
