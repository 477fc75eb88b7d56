"""The house rules that a linter does not know: sizes, who touches what, what is never called."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [*sorted(p.name for p in ROOT.glob("mistudio_*") if p.is_dir()), "gateway"]
SERVICES = ["mistudio_train", "mistudio_find", "mistudio_explain"]
OUTSIDE = ("grpc", "google", "mistudio", "mistudio_rpc")
EDGE = {"service.py", "convert.py", "worker.py", "__main__.py"}


def sources(*folders: str) -> list[Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in p.parts]


SHIPPED = sources(*PACKAGES)
EVERYTHING = [*SHIPPED, *sources("tests", "benchmarks", "examples", "tools")]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(n.name, (n.end_lineno or 0) - n.lineno + 1) for n in ast.walk(tree) if isinstance(n, kinds)]


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_a_file_has_at_most_400_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 400


def test_a_function_has_at_most_60_lines_and_most_have_40():
    sizes = [(f"{relative(p)}:{name}", size) for p in SHIPPED for name, size in functions(p)]
    assert [entry for entry in sizes if entry[1] > 60] == []
    assert sum(size <= 40 for _, size in sizes) >= 0.9 * len(sizes)


def test_a_test_has_at_most_40_lines():
    sizes = [(f"{relative(p)}:{n}", s) for p in sources("tests") for n, s in functions(p) if n.startswith("test")]
    assert [entry for entry in sizes if entry[1] > 40] == []


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_a_module_says_what_it_owns(path: Path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring or not path.read_text().strip(), "an empty file needs none"
    assert len((docstring or "").splitlines()) <= 30


@pytest.mark.parametrize("service", SERVICES)
def test_only_the_edge_of_a_service_touches_grpc_and_messages(service: str):
    faulty = []
    for path in sources(service):
        if path.parent == ROOT / service and (path.name in EDGE or path.name.startswith(("service_", "convert_"))):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            faulty += [
                relative(path) for n in names if n.split(".")[0] in ("grpc", "google", "mistudio", "mistudio_rpc")
            ]
    assert faulty == []


BANNED = {
    r"import pickle|\bpickle\.": (),
    r"\btorch\.load\(": ("mistudio_torch/lm/unpickle.py",),
    r"allow_pickle\s*=\s*True": (),
    r"trust_remote_code\s*=\s*True": (),
    r"shell\s*=\s*True": (),
    r"\byaml\.load\(": (),
    r"\btime\.time\(": (),
    r"\bdatetime\.now\(": ("mistudio_core/clock.py",),
    r"^\s*assert ": (),
    r"(?<![\w.])print\(": (),
    r"\bos\.fork\(": (),
}


@pytest.mark.parametrize("pattern", BANNED)
def test_what_is_never_called(pattern: str):
    allowed = BANNED[pattern]
    code = {relative(p): _without_strings(p) for p in SHIPPED}
    found = [name for name, text in code.items() if re.search(pattern, text, re.MULTILINE) and name not in allowed]
    assert found == []


def _without_strings(path: Path) -> str:
    """The code with docstrings and comments blanked: words about a thing are not its use."""
    text = path.read_text()
    text = re.sub(r'"""(?:.|\n)*?"""', '""', text)
    return re.sub(r"#.*", "", text)


def test_the_project_speaks_of_itself_alone():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = ["py" + "pi.org", "python" + "hosted", "registry.npm" + "js", "deb.debi" + "an"]
    banned = re.compile("|".join([re.escape(str(ROOT)), *map(re.escape, hosts)]))
    found = []
    for name in files:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1_000_000 and path.suffix not in (".binpb", ".png"):
            found += [name] if banned.search(path.read_text(errors="replace")) else []
    assert found == []
