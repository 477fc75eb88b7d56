"""What the documentation says can be typed: fences parse, commands and options exist, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fences() -> list[tuple[str, str, str]]:
    return [(d.name, language, body) for d in DOCUMENTS for language, body in FENCE.findall(d.read_text())]


@pytest.mark.parametrize(("document", "language", "body"), fences())
def test_a_fence_parses(document: str, language: str, body: str):
    if language == "bash":
        done = subprocess.run(["bash", "-n"], input=body, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    elif language == "python":
        ast.parse(body)
    elif language == "toml":
        tomllib.loads(body)
    elif language == "json":
        json.loads(body)


def test_every_mistudio_command_in_the_readme_exists():
    surface = json.loads((ROOT / "tests" / "unit" / "cli" / "surface.json").read_text())
    known = json.dumps(surface)
    shell = "\n".join(body for name, language, body in fences() if name == "README.md" and language == "bash")
    commands = re.findall(r"^mistudio ([a-z]+)", shell, re.MULTILINE)
    assert commands
    assert [c for c in commands if f'"{c}' not in known and f" {c}" not in known] == []


def test_every_make_target_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_links_inside_of_the_project_lead_somewhere():
    links = [(d, link) for d in DOCUMENTS for link in re.findall(r"\]\(([^)#]+)\)", d.read_text())]
    assert [(d.name, link) for d, link in links if ":" not in link and not (d.parent / link).exists()] == []


def test_the_readme_opens_with_the_two_commands():
    first = FENCE.search((ROOT / "README.md").read_text())
    assert first is not None
    assert re.findall(r"^make (\w+)", first.group(2), re.MULTILINE) == ["demo", "test"]


def test_every_mistudio_command_in_the_docs_exists_with_its_options():
    surface = json.loads((ROOT / "tests" / "unit" / "cli" / "surface.json").read_text())
    options = {name: {part for o in shown for part in o.rstrip("*").split("/")} for name, shown in surface.items()}
    wrong = []
    for name, language, body in fences():
        lines = body.replace("\\\n", " ").splitlines() if language == "bash" else []
        for words in (line.split("#")[0].split() for line in lines if line.startswith("mistudio ")):
            command = next((c for n in (3, 2) if (c := " ".join(words[:n])) in options), "")
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            wrong += [(name, *words)] if not command or given - options[command] else []
    assert wrong == []
