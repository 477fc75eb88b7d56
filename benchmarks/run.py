"""`python -m benchmarks.run NAME [--json] [--save]`: runs one benchmark and prints its figures.

`--save` writes them with their environment under benchmarks/results/, as every comparison does.
`python -m benchmarks.run NAME --help` lists the options of one.
"""

from __future__ import annotations

import argparse
import json
import platform as machine
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    coherence,
    explain_quality,
    explain_speed,
    explain_throughput,
    find,
    find_compare,
    find_exports,
    sweep,
    synthetic,
    tables,
    train_sae,
    train_text,
)
from benchmarks.peers.common import BadFile
from mistudio_core.errors import MistudioError

RESULTS = Path(__file__).parent / "results"


def _idle() -> dict[str, Any]:
    from benchmarks.platform import idle

    return idle()


def _first_event() -> dict[str, Any]:
    from benchmarks.platform import first_event

    return first_event()


def _watchers() -> dict[str, Any]:
    from benchmarks.watchers import run

    return run()


def _model_bytes() -> dict[str, Any]:
    from benchmarks.model_bytes import run

    return run()


def _corpus_memory() -> dict[str, Any]:
    from benchmarks.corpus_memory import run

    return run()


def _plan_memory() -> dict[str, Any]:
    from benchmarks.plan_memory import CASES, figures

    return figures(list(CASES))


def _find_queries() -> dict[str, Any]:
    from benchmarks.find_queries import run

    return run()


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A benchmark with options of its own."""

    options: Callable[[argparse.ArgumentParser], None]
    """Adds them."""
    run: Callable[[argparse.Namespace], dict[str, Any]]
    """Figures."""


BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "idle": _idle,
    "first_event": _first_event,
    "watchers": _watchers,
    "model_bytes": _model_bytes,
    "corpus_memory": _corpus_memory,
    "plan_memory": _plan_memory,
    "find_queries": _find_queries,
}
COMPARISONS = {
    "train_sae": Comparison(options=train_sae.options, run=train_sae.run),
    "train_text": Comparison(options=train_text.options, run=train_text.run),
    "synthetic": Comparison(options=synthetic.options, run=synthetic.run),
    "sweep": Comparison(options=sweep.options, run=sweep.run),
    "coherence": Comparison(options=coherence.options, run=coherence.run),
    "explain_quality": Comparison(options=explain_quality.options, run=explain_quality.run),
    "explain_speed": Comparison(options=explain_speed.options, run=explain_speed.run),
    "explain_throughput": Comparison(options=explain_throughput.options, run=explain_throughput.run),
    "find": Comparison(options=find.options, run=find.run),
    "find_compare": Comparison(options=find_compare.options, run=find_compare.run),
    "find_exports": Comparison(options=find_exports.options, run=find_exports.run),
}
_VERSIONS: tuple[str, ...] = ("grpcio", "protobuf", "sqlalchemy", "starlette", "uvicorn")
_TRAINING_VERSIONS: tuple[str, ...] = ("mistudio", "numpy", "torch", "transformers")
_OF_TRAINING: tuple[str, ...] = ("model_bytes", "corpus_memory", "plan_memory")


def environment(packages: tuple[str, ...] = _VERSIONS, device: str = "cpu") -> dict[str, Any]:
    """What the figures were measured on, and with which versions of `packages`."""
    import os
    from importlib.metadata import version

    return _gpu(device) | {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": machine.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
    }


def _gpu(device: str) -> dict[str, str]:
    """Name of the GPU that was used; nothing for a CPU."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name(device)}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return machine.processor()


def main(argv: list[str] | None = None) -> int:
    """Runs the named benchmark."""
    given = _arguments(argv)
    if given.name in BENCHMARKS:
        versions = _TRAINING_VERSIONS if given.name in _OF_TRAINING else _VERSIONS
        figures, save = BENCHMARKS[given.name](), given.save
    else:
        try:
            figures = COMPARISONS[given.name].run(given)
        except (MistudioError, BadFile, FileNotFoundError) as error:
            print(f"{given.name}: {error}", file=sys.stderr)
            return 1
        save, versions = given.save or getattr(given, "compare", False), _TRAINING_VERSIONS
    if save:
        where = environment(versions, getattr(given, "device", "cpu"))
        body = {"benchmark": given.name, "figures": figures, "environment": where}
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / f"{given.name}.json").write_text(json.dumps(body, indent=2) + "\n")
    if not given.json and given.name in tables.TABLES and "summary" in figures:
        print(tables.TABLES[given.name](figures))
    else:
        print(json.dumps(figures) if given.json else json.dumps(figures, indent=2))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name in sorted([*BENCHMARKS, *COMPARISONS]):
        one = names.add_parser(name)
        one.add_argument("--json", action="store_true", help="one JSON line")
        one.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
        one.add_argument("--results", type=Path, default=RESULTS, help="another folder for it")
        if name in COMPARISONS:
            COMPARISONS[name].options(one)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
