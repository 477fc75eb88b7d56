"""What is made of the chart and committed: snapshots of what it renders, and the table of values in its README.

`python -m tests.chart.pages snapshots` and `... readme` write them (`make chart`, `make chart-docs`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chart import charts

SNAPSHOTS = Path(__file__).parent / "snapshots"
README = charts.CHART / "README.md"
_TABLE = re.compile(r"(<!-- values -->\n).*(<!-- end of values -->\n)", re.DOTALL)
_LINE = re.compile(r"^( *)([A-Za-z][\w./-]*):(?: (.*))?$")


@dataclass(frozen=True)
class Documented:
    """One value as values.yaml documents it."""

    path: str
    """Dotted path."""
    default: str
    """Its default as YAML; empty for a map of further values."""
    text: str
    """What it means."""


def snapshot_file(name: str) -> Path:
    """Where the snapshot of a values file stands."""
    return SNAPSHOTS / f"{name}.yaml"


def snapshot(name: str) -> str:
    """All that a values file renders, in order of templates."""
    texts = charts.rendered(charts.values_of(charts.FILES[name]))
    out = []
    for template, text in sorted(texts.items()):
        lines = [line.rstrip() for line in text.strip().splitlines()]
        out.append("\n".join([f"# {template}", *lines]) + "\n")
    return "---\n".join(out)


def documented() -> Iterator[Documented]:
    """Every key of values.yaml with the comment above it; the first comment of the file belongs to the file."""
    comment: list[str] = []
    parents: list[str] = []
    for line in (charts.CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        found = _LINE.match(line)
        if found:
            depth = len(found[1]) // 2
            parents = [*parents[:depth], found[2]]
            inside = any(".".join(parents[:-1]).endswith(tail) for tail in ("ingress.annotations",))
            if not inside:
                yield Documented(".".join(parents), found[3] or "", " ".join(comment))
        comment = []


def readme() -> str:
    """The chart's README with a fresh table."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in documented():
        default = f"`{value.default}`" if value.default else ""
        rows.append(f"| `{value.path}` | {default} | {value.text} |")
    table = "\n".join(rows) + "\n"
    return _TABLE.sub(lambda m: m[1] + table + m[2], README.read_text())


def main() -> None:
    """Writes what is asked for."""
    if sys.argv[1:] == ["snapshots"]:
        SNAPSHOTS.mkdir(exist_ok=True)
        for old in SNAPSHOTS.iterdir():
            old.unlink()
        for name in charts.FILES:
            snapshot_file(name).write_text(snapshot(name))
    elif sys.argv[1:] == ["readme"]:
        README.write_text(readme())
    else:
        raise SystemExit("usage: python -m tests.chart.pages snapshots|readme")


if __name__ == "__main__":
    main()
