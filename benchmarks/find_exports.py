"""Seconds and bytes of every export, on complete synthetic records or on a real `features` artifact.

`classic_together_s` is JSON, CSV, XML, PyTorch, TXT and the ZIP of these, Parquet and safetensors, made from the
records in one process with its imports, each file packed as it is complete; `process_s` is a
fresh process for one form, as a download starts it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mistudio_find.exports import FORMATS
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make
from mistudio_find.exports.zip_file import pack

CLASSIC = ("json", "csv", "xml", "pytorch", "zip", "txt")
_ALONE = [form.name for form in FORMATS.values() if not form.needs_codes]


def options(parser: argparse.ArgumentParser) -> None:
    """`--features`, `--count`."""
    parser.add_argument("--features", type=Path, help="folder of a features artifact instead of synthetic records")
    parser.add_argument("--count", type=int, default=512, help="synthetic features")
    parser.add_argument("--formats", nargs="+", choices=_ALONE, default=_ALONE, help="forms to time one by one")
    parser.add_argument("--step", choices=("together", *_ALONE), help=argparse.SUPPRESS)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of every form."""
    with tempfile.TemporaryDirectory(prefix="exports-") as place:
        folder = given.features or _synthetic(Path(place) / "features", given.count)
        if given.step:
            return _measure(Analysis(_files(folder)), given.step, Path(place))
        forms = {name: _process(folder, name) for name in given.formats}
        together = _process(folder, "together")
        return {
            "features": Analysis(_files(folder)).total,
            "records_mb": round((folder / "features.jsonl").stat().st_size / 1e6, 1),
            "classic_together_s": together["seconds"],
            "classic_process_s": together["process_s"],
            "classic_peak_rss_mb": together["peak_rss_mb"],
            "formats": forms,
        }


def _files(folder: Path) -> Any:
    from tests.unit.find.records import Files

    return Files(folder)


def _synthetic(folder: Path, count: int) -> Path:
    """Default evidence: 20 top and 5 quantile texts of 65 tokens, 10 contrast texts; the last feature is dead."""
    from tests.unit.find.records import dead, record, write_features

    return write_features(folder, (dead(i) if i == count - 1 else record(i) for i in range(count)))


def _process(folder: Path, step: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.run", "find_exports", "--json", "--features", str(folder)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--step", step], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "process_s": round(seconds, 2)}


def _measure(analysis: Analysis, step: str, place: Path) -> dict[str, Any]:
    """One step in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    if step == "together":
        wanted = {form.name: place / form.filename for form in FORMATS.values() if form.in_bundle}
        pack(analysis, place / "feature_analysis.zip", place, wanted)
        size = sum((place / FORMATS[name].filename).stat().st_size for name in CLASSIC)
    else:
        path = place / FORMATS[step].filename
        make(analysis, {step: path})
        size = path.stat().st_size
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "mb": round(size / 1e6, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
