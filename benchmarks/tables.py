"""Renders results of the comparisons as Markdown.

python -m benchmarks.tables            rewrites the tables of docs/benchmarks.md from benchmarks/results/
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def train_sae(figures: dict[str, Any]) -> str:
    """One table an architecture and width."""
    columns = ["", "tokens/s", "miStudio is", "FVU", "L0", "dead", "at learning rate", "peak MB"]
    parts = []
    for arch, width in dict.fromkeys((row["arch"], row["width"]) for row in figures["summary"]):
        rows = [row for row in figures["summary"] if (row["arch"], row["width"]) == (arch, width)]
        cells = [
            [
                row["contestant"],
                f"{row['tokens_per_s']:,.0f}",
                f"{row['ours_times']:.1f} x as fast" if "ours_times" in row else "",
                f"{row['fvu']:.3f}",
                f"{row['l0']:.1f}",
                f"{row['dead']:.1%}",
                f"{row['best_lr']:g}",
                f"{row['peak_rss_mb']:,.0f}",
            ]
            for row in rows
        ]
        parts.append(f"**{arch}, {width:,} features**\n\n{table(columns, cells)}")
    data = figures["data"]
    head = (
        f"{data['tokens']:,} tokens of width {data['d_in']}, k = {data['k']}, batches of {data['batch']:,}; "
        f"figures on {data['heldout_rows']:,} held-out rows."
    )
    return "\n\n".join([head, *parts])


def train_text(figures: dict[str, Any]) -> str:
    """Text to SAE."""
    columns = ["", "tokens/s", "miStudio is", "seconds", "peak MB"]
    cells = [
        [
            row["contestant"],
            f"{row['tokens_per_s']:,.0f}",
            f"{row['ours_times']:.1f} x as fast" if "ours_times" in row else "",
            f"{row['seconds']:.1f}",
            f"{row['peak_rss_mb']:,.0f}",
        ]
        for row in figures["summary"]
    ]
    data = figures["data"]
    head = (
        f"{data['model']}, block {data['layer']}, {data['tokens']:,} tokens in sequences of {data['length']}, "
        f"{data['width']:,} features, k = {data['k']}."
    )
    return f"{head}\n\n{table(columns, cells)}"


def synthetic(figures: dict[str, Any]) -> str:
    """Known features found again."""
    columns = ["", "matched cosine", "largest cosine", "L0", "FVU", "dead"]
    cells = [
        [f"{row['arch']}, {row['contestant']}"]
        + [f"{row[key]:.3f}" for key in ("matched", "largest")]
        + [f"{row['l0']:.1f}", f"{row['fvu']:.3f}", f"{row['dead']:.1%}"]
        for row in figures["summary"]
    ]
    data = figures["data"]
    head = (
        f"{data['features']:,} true features in {data['d_in']} dimensions, {data['true_l0']:.1f} of them active on a "
        f"row; {data['width']:,} features trained on {data['tokens']:,} rows."
    )
    return f"{head}\n\n{table(columns, cells)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "train_sae": train_sae,
    "train_text": train_text,
    "synthetic": synthetic,
}
"""Renderer of each comparison."""


def environment_line(environment: dict[str, Any]) -> str:
    """One sentence on where figures come from."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    place = f"{environment['gpu']}, " if "gpu" in environment else ""
    return f"{place}{environment['processor']}, {environment['cores']} cores, {environment['date']}; {versions}."


def rendered(document: str, results: Path) -> str:
    """The document with the text between `<!-- NAME -->` and `<!-- end -->` made anew from NAME.json."""

    def one(match: re.Match[str]) -> str:
        path = results / f"{match[1]}.json"
        if not path.exists():
            return match[0]
        body = json.loads(path.read_text())
        text = f"{TABLES[match[1]](body['figures'])}\n\n{environment_line(body['environment'])}"
        return f"<!-- {match[1]} -->\n{text}\n<!-- end -->"

    names = "|".join(TABLES)
    return re.sub(rf"<!-- ({names}) -->\n.*?<!-- end -->", one, document, flags=re.DOTALL)


def main() -> int:
    """Rewrites the document."""
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), Path(__file__).parent / "results"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
