"""How well explanations tell held-out texts apart, and whether the measure can tell a wrong one.

    python -m benchmarks.run explain_quality --model FOLDER --corpus FILE.jsonl.gz --json

Trains an SAE on the texts, analyses it, explains with the lexical engine, and judges on documents that
no explanation saw; beside it the same with explanations dealt out at random. `--codes FOLDER` skips the training.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import coherence
from benchmarks.given import Folder
from benchmarks.peers.common import BadFile
from mistudio_core.jobs.local import LocalContext

_FAIR = 0.4
_RESAMPLES = 2000


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of this benchmark: that of coherence, and what is explained."""
    coherence.options(parser)
    parser.add_argument("--features", type=int, default=200, help="the least number that is explained")
    parser.add_argument("--shuffles", type=int, default=5, help="random assignments")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures. Raises BadFile, MistudioError."""
    if given.codes is None and (given.model is None or given.corpus is None):
        raise BadFile("Give --model and --corpus, or --codes.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        codes = Folder(given.codes) if given.codes else coherence.train(given, folder / "train")
        return measure(analysed(codes, folder / "find", given.top_texts, given.seed), given)


def analysed(codes: Any, folder: Path, top_texts: int, seed: int) -> Any:
    """The `features` artifact of Find's own job."""
    from mistudio_find import job
    from mistudio_find.config import FindConfig

    context = LocalContext(folder, inputs={"codes": codes})
    job.run(FindConfig(training_job_id="benchmark", top_texts=top_texts, seed=seed), context)
    return coherence.committed(context, "features")


def measure(features: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Explains all features of tier fair or better, or the best ones where these are too few, and judges them."""
    from mistudio_explain.engines.lexical import LEXICAL_MODEL, LexicalExplainer
    from mistudio_explain.evidence import FindEvidence
    from mistudio_explain.judging import create_judge, shuffled_control

    find = FindEvidence(features)
    found = find.choose(feature_ids=(), min_coherence=0.0, max_features=find.total)
    fair = [e for e in found if e.coherence >= _FAIR]
    taken = fair if len(fair) >= given.features else found[: given.features]
    chosen = [e for e in map(_unseen, taken) if _judged(e)]
    explainer, judge = LexicalExplainer(), create_judge("lexical")

    async def work() -> dict[str, Any]:
        began = time.perf_counter()
        drafts = [await explainer.explain(e, strategy="", seed=given.seed) for e in chosen]
        own = [await judge.accuracy(d, e, find.idf, seed=given.seed) for d, e in zip(drafts, chosen, strict=True)]
        seconds = time.perf_counter() - began
        pairs = list(zip(drafts, chosen, strict=True))
        shuffled = [
            [a.value for a in await shuffled_control(judge, pairs, find.idf, seed=given.seed + n)]
            for n in range(given.shuffles)
        ]
        values = [a.value for a in own]
        low, high = interval(values, given.seed)
        return {
            "auroc": _mean(values),
            "auroc_low": low,
            "auroc_high": high,
            "auroc_near": _mean([a.near for a in own if a.near is not None]),
            "auroc_shuffled": _mean([v for one in shuffled for v in one]),
            "above_chance": _mean([float(a.low > 0.5) for a in own]),
            "features": len(chosen),
            "fair_or_better": len(fair),
            "copies_left_out": sum(len(e.judge) for e in taken) - sum(len(_unseen(e).judge) for e in taken),
            "milliseconds_a_feature": round(1000 * seconds / max(1, len(chosen)), 2),
            "explainer": LEXICAL_MODEL,
            "judge": judge.method,
        }

    return asyncio.run(work())


def _judged(evidence: Any) -> bool:
    """Whether there are held-out texts of both sides."""
    firing = sum(t.activation > 0 for t in evidence.judge)
    return firing > 0 and any(t.activation <= 0 and not t.near for t in evidence.judge)


def _unseen(evidence: Any) -> Any:
    """Without held-out texts that stand, word for word, in a document that the explainer was shown as well."""
    seen = {*(t.text for t in (*evidence.top, *evidence.quantiles)), *evidence.contrast}
    return replace(evidence, judge=tuple(t for t in evidence.judge if t.text not in seen))


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over features."""
    rng = np.random.default_rng(seed)
    means = rng.choice(np.asarray(values), (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.5
