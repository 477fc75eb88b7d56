"""What building and starting the images takes, in clean virtual environments: `make test-images`.

Runs each stage's own RUN lines on what it copies, with the paths of an image replaced. Not run here: the targets
worker-cuda and explain-vllm, whose packages are for GPUs, and everything that needs a container engine: the base
image, apt, users, COPY between stages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart import charts, dockerfile
from tests.chart.pods import containers, running
from tests.chart.test_chart_processes import secrets

BUILT = ("gateway", "worker-cpu")
MINUTES = 30


@dataclass
class Built:
    """A target's environment."""

    name: str
    root: Path
    """Stands for `/` of the image."""

    @property
    def bin(self) -> Path:
        return self.root / "opt" / "mistudio" / "bin"

    def environment(self) -> dict[str, str]:
        """What the image's ENV gives, with the environment's programs first."""
        given = {k: v.replace("/opt/mistudio/bin", str(self.bin)) for k, v in dockerfile.variables(self.name).items()}
        kept = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k in ("HOME", "LANG")}
        return {**given, **kept, "PYTHONPATH": ""}

    def run(self, line: str, folder: Path) -> None:
        """One RUN line of a build stage."""
        line = line.replace("/opt/mistudio", str(self.root / "opt" / "mistudio")).replace(
            "python -m venv", "python3 -m venv"
        )
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="session", params=BUILT)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A target, installed as its stages say, from a copy of what they copy."""
    folder = tmp_path_factory.mktemp(request.param)
    target = Built(request.param, folder)
    source = folder / "src"
    source.mkdir()
    for stage in dockerfile.lineage(f"build-{target.name}"):
        for text in stage.all("COPY"):
            for name in text.split()[:-1]:
                place = charts.ROOT / name
                copy = shutil.copytree if place.is_dir() else shutil.copy
                copy(place, source / name)
        for line in stage.all("RUN"):
            if "apt-get" not in line:
                target.run(line, source)
    shutil.rmtree(source)
    yield target
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(60 * MINUTES)
def test_what_is_installed_runs(built: Built):
    for program in ("mistudio", "python -m gateway"):
        built.run(f"{program} --help", built.root)
    torch = subprocess.run([built.bin / "python", "-c", "import torch"], capture_output=True, timeout=300)
    assert (torch.returncode == 0) == (built.name != "gateway")


@pytest.mark.timeout(600)
def test_the_rendered_pods_start_on_it(built: Built, tmp_path: Path):
    values = charts.values_of(charts.FILES["services"])
    made = containers(values, tmp_path, secrets(tmp_path / "certificates", values))
    chosen = {n: c for n, c in made.items() if (n == "gateway") == (built.name == "gateway")}
    for container in chosen.values():
        container.extra = {"PATH": f"{built.bin}:/usr/bin:/bin", "PYTHONPATH": ""}
    with running(chosen):
        for container in chosen.values():
            assert container.answers("livenessProbe")
            assert container.stop() == 0, container.log.read_text()[-2000:]
