"""The collector of docstrings: unique, one a line, no tests, nothing imported."""

from __future__ import annotations

from pathlib import Path

from mistudio_cli.docstrings import docstrings, write_corpus

SOURCE = '''"""Module   text
over two lines."""

class A:
    """Class text."""

    def method(self):
        """Class text."""

    async def other(self):
        """Async text."""

raise RuntimeError("never imported")
'''


def make(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_text_once_in_order_on_one_line(tmp_path):
    make(tmp_path, "b.py", SOURCE)
    make(tmp_path, "a.py", '"""Class text."""')
    assert list(docstrings(tmp_path)) == ["Class text.", "Module text over two lines.", "Async text."]


def test_tests_and_installed_packages_are_left_out(tmp_path):
    for folder in ("test", "email/tests", "site-packages/x"):
        make(tmp_path, f"{folder}/m.py", '"""Not this."""')
    assert list(docstrings(tmp_path)) == []


def test_broken_files_are_passed_over(tmp_path):
    make(tmp_path, "bad.py", "def (")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    make(tmp_path, "empty.py", 'def f():\n    """   """')
    make(tmp_path, "good.py", '"""Good."""')
    assert list(docstrings(tmp_path)) == ["Good."]


def test_the_standard_library_gives_thousands(tmp_path):
    target = tmp_path / "demo" / "text.txt"
    count = write_corpus(target)
    lines = target.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert 6_000 < count == len(lines) == len(set(lines)) < 15_000
    assert all(line.strip() == line and line for line in lines)
