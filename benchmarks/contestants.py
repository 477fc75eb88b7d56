"""Who takes part in a comparison, and how one is started: in a process of its own interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_QUIET = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One library that trains SAEs."""

    name: str
    """As tables call it."""
    module: str
    """The script that runs it."""
    environment: str
    """Folder of its environment; empty: this interpreter."""
    architectures: frozenset[str]
    """What it trains, by our names; empty: whatever the registry has."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Options of its script that differ from the library's defaults."""

    def python(self, envs: Path) -> str:
        """Its interpreter. Raises FileNotFoundError with what to do."""
        if not self.environment:
            return sys.executable
        python = envs.absolute() / self.environment / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(
                f"{self.name} has no environment under {envs}. Make it with `python -m benchmarks.peers.environments "
                f"{envs}`, or leave it out of --peers."
            )
        return str(python)


OURS = Contestant(name="miStudio", module="benchmarks.ours", environment="", architectures=frozenset())
_ALL = frozenset({"topk", "batchtopk", "standard", "jumprelu", "gated", "matryoshka"})
PEERS = {
    "saelens": Contestant(
        name="SAELens",
        module="benchmarks.peers.saelens",
        environment="saelens",
        architectures=_ALL,
    ),
    "sparsify": Contestant(
        name="sparsify",
        module="benchmarks.peers.sparsify",
        environment="sparsify",
        architectures=frozenset({"topk"}),
    ),
    "dictionary_learning": Contestant(
        name="dictionary_learning",
        module="benchmarks.peers.dictionary_learning",
        environment="dictionary_learning",
        architectures=frozenset({"topk", "batchtopk", "standard"}),
    ),
    "saelens_short_run": Contestant(
        name="SAELens, set for a short run",
        module="benchmarks.peers.saelens",
        environment="saelens",
        architectures=_ALL,
        settings=(("dead_window", 10), ("warm_up_steps", 2), ("decay_steps", 10)),
    ),
    "sparsify_adam": Contestant(
        name="sparsify with Adam",
        module="benchmarks.peers.sparsify",
        environment="sparsify",
        architectures=frozenset({"topk"}),
        settings=(("optimizer", "adam"), ("warm_up_steps", 2)),
    ),
}
USUAL = ("saelens", "sparsify", "dictionary_learning")
"""Those that a comparison takes unless told otherwise: every library with its own defaults."""


def train_in_a_process(contestant: Contestant, envs: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a contestant's script; the report that it prints last. Raises RuntimeError with the end of its output."""
    own = dict(settings) | dict(contestant.settings)
    return run_module(contestant.python(envs), (contestant.module,), contestant.name, own)


def run_module(python: str, module: tuple[str, ...], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`python -m module [verb]` with settings as options; None leaves an option out, True is a flag."""
    command = [python, "-m", *module]
    for option, value in settings.items():
        if value is not None and value is not False:
            text = str(value.absolute() if isinstance(value, Path) else value)
            command += [f"--{option.replace('_', '-')}"] + ([] if value is True else [text])
    done = subprocess.run(command, cwd=ROOT, env=os.environ | _QUIET, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report
