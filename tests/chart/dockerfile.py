"""The Dockerfile as stages: what each is built on, and its instructions in order."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from tests.chart.charts import ROOT

FILE = ROOT / "deploy" / "docker" / "Dockerfile"
TARGETS = ("gateway", "worker-cpu", "worker-cuda", "explain-vllm")


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of every instruction of a kind."""
        return [text for kind, text in self.instructions if kind == instruction]


def stages() -> dict[str, Stage]:
    """Every stage by name."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE))
    found: dict[str, Stage] = {}
    current = Stage("", "")
    for line in filter(str.strip, text.splitlines()):
        kind, _, rest = line.strip().partition(" ")
        if kind == "FROM":
            base, _as, name = rest.partition(" AS ")
            current = found[name] = Stage(name, base)
        else:
            current.instructions.append((kind, rest.strip()))
    return found


def lineage(name: str) -> list[Stage]:
    """A stage and what it is built on, the first one first."""
    every, line = stages(), []
    while name in every:
        line.insert(0, every[name])
        name = every[name].base
    return line


def last(name: str, instruction: str) -> str:
    """The instruction of a kind that counts in a target; empty where there is none."""
    given = [text for stage in lineage(name) for text in stage.all(instruction)]
    return given[-1] if given else ""


def command(text: str) -> list[str]:
    """A CMD or ENTRYPOINT in its JSON form."""
    parsed: Any = json.loads(text[text.index("[") :])
    return [str(part) for part in parsed]


def variables(name: str) -> dict[str, str]:
    """The environment of a target."""
    pairs = [pair for stage in lineage(name) for text in stage.all("ENV") for pair in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)
