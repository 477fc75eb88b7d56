"""`python -m benchmarks.run NAME [--json] [--save]`: runs one benchmark and prints its figures.

`--save` writes them with their environment under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform as machine
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "idle": _idle,
    "first_event": _first_event,
    "watchers": _watchers,
}


def environment() -> dict[str, Any]:
    """What the figures were measured on."""
    import os
    from importlib.metadata import version

    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": machine.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "sqlalchemy", "starlette", "uvicorn")},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return machine.processor()


def main() -> int:
    """Runs the named benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    given = parser.parse_args()
    figures = BENCHMARKS[given.name]()
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        body = {"benchmark": given.name, "figures": figures, "environment": environment()}
        (RESULTS / f"{given.name}.json").write_text(json.dumps(body, indent=2) + "\n")
    print(json.dumps(figures) if given.json else json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
