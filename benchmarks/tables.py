"""Renders results of the comparisons as Markdown.

python -m benchmarks.tables            rewrites the tables of docs/benchmarks.md from benchmarks/results/
"""

from __future__ import annotations

import json
import re
import statistics
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


_KINDS = {"plain": "Features that fire independently", "tree": "Features in trees, correlated"}


def synthetic(figures: dict[str, Any]) -> str:
    """Known features found again: one table a kind."""
    columns = ["", "matched cosine", "largest cosine", "L0", "FVU", "dead", "at learning rate"]
    data = figures["data"]
    parts = [
        f"{data['features']:,} true features in {data['d_in']} dimensions; {data['width']:,} features trained on "
        f"{data['tokens']:,} rows."
    ]
    for kind, true_l0 in data["true_l0"].items():
        cells = [
            [f"{row['arch']}, {row['contestant']}"]
            + [f"{row[key]:.3f}" for key in ("matched", "largest")]
            + [f"{row['l0']:.1f}", f"{row['fvu']:.3f}", f"{row['dead']:.1%}", f"{row['lr']:g}"]
            for row in figures["summary"]
            if row["kind"] == kind
        ]
        parts.append(f"**{_KINDS[kind]}, {true_l0:.1f} of them on a row**\n\n{table(columns, cells)}")
    return "\n\n".join(parts)


def plan_memory(figures: dict[str, Any]) -> str:
    """Planned beside measured memory."""
    columns = ["", "planned GB", "measured GB", "planned / measured"]
    cells = [
        [row["case"], f"{row['planned_gb']:.2f}", f"{row['measured_gb']:.2f}", f"{row['ratio']:.3f}"]
        for row in figures["cases"]
    ]
    head = f"Beyond the {figures['baseline_gb']:.2f} GB that the program takes with a toy model; at most "
    return f"{head}{figures['worst']:.1%} apart.\n\n{table(columns, cells)}"


def corpus_memory(figures: dict[str, Any]) -> str:
    """Memory of corpora of several sizes."""
    columns = ["", "documents", "documents/s", "peak MB", "with mapped files MB", "bytes a document more"]
    more = {(row["stage"], row["to"]): row["bytes_a_document"] for row in figures["growth"]}
    cells = []
    for stage in dict.fromkeys(row["stage"] for row in figures["rows"]):
        for row in (row for row in figures["rows"] if row["stage"] == stage):
            grown = more.get((stage, row["documents"]))
            sizes = [f"{row[key]:,.0f}" for key in ("documents", "documents_per_s", "peak_anon_mb", "peak_rss_mb")]
            cells.append([stage, *sizes, "" if grown is None else f"{grown:.0f}"])
    return table(columns, cells)


def find_compare(figures: dict[str, Any]) -> str:
    """Evidence beside other libraries: seconds, what each gives, how the strongest places agree."""
    from benchmarks.peers.evidence import KINDS

    data, names = figures["data"], [row["contestant"] for row in figures["summary"]]
    cells = [
        [
            row["contestant"],
            f"{row['features']:,}",
            f"{row['seconds']:.1f}",
            " + ".join(f"{seconds:.1f} {stage}" for stage, seconds in row["stages"].items()),
            f"{row['ours_times']:.1f} x as fast" if "ours_times" in row else "",
            f"{row['written_mb']:,.0f}",
            f"{row['peak_rss_mb']:,.0f}",
        ]
        for row in figures["summary"]
    ]
    held = [
        [KINDS[kind], *("yes" if kind in figures["gives"][name] else "" for name in names)]
        for kind in KINDS
        if any(kind in figures["gives"][name] for name in names)
    ]
    parts = [
        f"{data['model']}, block {data['layer']}: {data['contexts']:,} contexts of {data['length']} tokens, "
        f"{data['width']:,} features, k = {data['k']}.",
        table(["", "features", "seconds", "of which", "miStudio is", "written MB", "peak MB"], cells),
        table(["a result holds", *names], held),
        *(_agreement(name, found, figures) for name, found in figures["agreement"]["beside_ours"].items()),
    ]
    return "\n\n".join(parts)


def _agreement(name: str, found: dict[str, Any], figures: dict[str, Any]) -> str:
    """Two lists of strongest places beside each other."""
    rule = figures["agreement"]["own_rule"][name]
    reasons = [["theirs, not ours", why, f"{n:,}"] for why, n in found["theirs_not_ours"].items()]
    reasons += [["ours, not theirs", why, f"{n:,}"] for why, n in found["ours_not_theirs"].items()]
    head = (
        f"**{name}**: of {rule['features']:,} lists {rule['same']:,} are what its rule gives on our activations, "
        f"{rule['tie']:,} more but for equal activations, {rule['different']:,} are not; activations differ by at most "
        f"{rule['largest_value_error']:.2%}. {found['share_in_common']:.0%} of our places are in its lists."
    )
    return f"{head}\n\n{table(['place', 'because', 'places'], reasons)}"


def explain_quality(figures: dict[str, Any]) -> str:
    """Mean AUROC of explanations over features, and of explanations dealt out at random."""
    columns = ["", "mean AUROC"]
    interval = f"{figures['auroc_low']:.3f} to {figures['auroc_high']:.3f}"
    cells = [
        ["against random silent texts", f"{figures['auroc']:.3f} ({interval})"],
        ["against silent texts of like topic", f"{figures['auroc_near']:.3f}"],
        ["explanations of other features, random silent texts", f"{figures['auroc_shuffled']:.3f}"],
    ]
    head = f"{figures['features']} features, {figures['explainer']} judged by {figures['judge']}."
    return f"{head}\n\n{table(columns, cells)}"


def explain_speed(figures: dict[str, Any]) -> str:
    """Seconds of a run with words alone, and milliseconds a feature of its parts."""
    columns = [f"{figures['features']} features, warm", ""]
    cells = [
        ["explained, judged, measured, written with the HTML report", f"{figures['seconds']:.2f} s"],
        ["all forms: JSON, HTML, PDF, CSV, TXT, audit", f"{figures['seconds_forms']:.2f} s"],
        ["explaining one feature", f"{figures['milliseconds_explain']:.1f} ms"],
        ["judging it", f"{figures['milliseconds_judge']:.1f} ms"],
        ["the rest of its quality", f"{figures['milliseconds_quality']:.1f} ms"],
    ]
    return table(columns, cells)


def explain_throughput(figures: dict[str, Any]) -> str:
    """Features a second through the service beside the engine asked directly, and the service's processor time."""
    columns = [f"{figures['features']} features, {figures['in_flight']} requests under way", ""]
    service, direct = figures["service_features_per_second"], figures["direct_features_per_second"]
    cells = [
        ["through the service, features a second", f"{statistics.median(service):.1f}"],
        ["the same engine asked directly", f"{statistics.median(direct):.1f}"],
        [f"median ratio of {len(service)} interleaved pairs", f"{figures['ratio_median']:.2f}"],
        ["the same without the job's start and end", f"{figures['ratio_of_explaining_median']:.2f}"],
        ["processor time of the worker, a feature", f"{figures['service_cpu_ms_per_feature']:.1f} ms"],
        ["of the lexical judge", f"{figures['judge_cpu_ms_per_feature']:.1f} ms"],
    ]
    return table(columns, cells)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "train_sae": train_sae,
    "train_text": train_text,
    "synthetic": synthetic,
    "plan_memory": plan_memory,
    "corpus_memory": corpus_memory,
    "find_compare": find_compare,
    "explain_quality": explain_quality,
    "explain_speed": explain_speed,
    "explain_throughput": explain_throughput,
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
