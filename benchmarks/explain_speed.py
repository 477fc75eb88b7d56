"""How long Explain takes with words alone: from a Find result to every form of the report.

    python -m benchmarks.run explain_speed --json

Invented documents and features, Find's own job, then Explain's job several times over: the first run
warms up, the median of the others counts. Beside it what explaining and judging take a feature.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import explain_quality, find_data
from benchmarks.given import Folder
from mistudio_core.jobs.local import LocalContext


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark."""
    parser.add_argument("--features", type=int, default=68, help="features that are explained")
    parser.add_argument("--tokens", type=int, default=60_000, help="tokens of the invented corpus")
    parser.add_argument("--runs", type=int, default=5, help="runs after the one that warms up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codes", type=Path, help="a codes artifact's folder in place of invented documents")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures; seconds are of this machine, with whatever else it does."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        codes = given.codes or find_data.write_codes(
            folder / "codes", features=4 * given.features, tokens=given.tokens, k=8, seed=given.seed
        )
        features = explain_quality.analysed(Folder(codes), folder / "find", 20, given.seed)
        whole = [_whole(features, folder / f"explain-{n}", given) for n in range(given.runs + 1)]
        parts = [_parts(features, given) for _ in range(given.runs + 1)]
    return {
        "features": whole[0][1],
        "seconds": round(statistics.median(w[0] for w in whole[1:]), 3),
        "seconds_cold": round(whole[0][0], 3),
        "seconds_forms": round(statistics.median(w[3] for w in whole[1:]), 3),
        "milliseconds_explain": round(statistics.median(p[0] for p in parts[1:]), 3),
        "milliseconds_judge": round(statistics.median(p[1] for p in parts[1:]), 3),
        "milliseconds_quality": round(statistics.median(p[2] for p in parts[1:]), 3),
        "artifacts": sorted(whole[-1][2]),
    }


def _whole(features: Any, folder: Path, given: argparse.Namespace) -> tuple[float, int, list[str], float]:
    """(seconds, features, artifacts) of one run of the job, and the seconds of every form that can be downloaded."""
    from mistudio_explain import job
    from mistudio_explain.config import ExplainConfig

    context = LocalContext(folder, inputs={"features": features})
    began = time.perf_counter()
    result = job.run(ExplainConfig(min_coherence=0.0, max_features=given.features, seed=given.seed), context)
    seconds = time.perf_counter() - began
    return seconds, result.total_features_processed, [a.kind for a in context.artifacts], _forms(context)


def _forms(context: LocalContext) -> float:
    """Seconds that JSON, HTML, PDF, CSV, TXT and the audit reports take, made from the stored run."""
    from mistudio_explain.book import read_book
    from mistudio_explain.reports import FORMS
    from mistudio_explain.table import TABLE_FILE, ExplanationTable

    began = time.perf_counter()
    book = read_book(ExplanationTable(context.reader("explanations").path(TABLE_FILE)))
    for form in FORMS.values():
        form.render(book)
    return time.perf_counter() - began


def _parts(features: Any, given: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds a feature of explaining, judging and measuring the rest."""
    from mistudio_explain.engines.lexical import LexicalExplainer
    from mistudio_explain.evidence import FindEvidence
    from mistudio_explain.judging import create_judge
    from mistudio_explain.quality import assess

    find = FindEvidence(features)
    chosen = find.choose(feature_ids=(), min_coherence=0.0, max_features=given.features)
    explainer, judge = LexicalExplainer(), create_judge("lexical")

    async def work() -> tuple[float, float, float]:
        times = [time.perf_counter()]
        drafts = [await explainer.explain(e, strategy="", seed=given.seed) for e in chosen]
        times.append(time.perf_counter())
        found = [await judge.accuracy(d, e, find.idf, seed=given.seed) for d, e in zip(drafts, chosen, strict=True)]
        times.append(time.perf_counter())
        for draft, evidence, accuracy in zip(drafts, chosen, found, strict=True):
            assess(draft, evidence, find.idf, accuracy, engine=explainer.name, model=explainer.model)
        times.append(time.perf_counter())
        explain, judged, rest = (1000 * (b - a) / max(1, len(chosen)) for a, b in pairwise(times))
        return explain, judged, rest

    return asyncio.run(work())
