"""Collects a text that every machine has: the docstrings of Python's standard library.

Sources are parsed, never imported. Each docstring is one document on one line, whitespace
collapsed, each text once, in the order of sorted file names; tests and installed packages are left
out. The result depends on the Python version alone.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


def write_corpus(target: Path, root: Path | None = None) -> int:
    """Writes one docstring a line; returns how many there are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    texts = list(docstrings(root or Path(sysconfig.get_path("stdlib"))))
    target.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return len(texts)


def docstrings(root: Path) -> Iterator[str]:
    """Every unique docstring in the Python files under a folder."""
    seen: set[str] = set()
    for file in sorted(root.rglob("*.py")):
        if _LEFT_OUT.intersection(file.relative_to(root).parts):
            continue
        for text in _of_file(file):
            if text not in seen:
                seen.add(text)
                yield text


def _of_file(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            if text and "\0" not in text:
                yield text
