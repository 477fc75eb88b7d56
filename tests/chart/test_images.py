"""The Dockerfile and the compose file, read: targets, users, locked packages, health checks, the chart's commands.

What installing takes is tried by `make test-images`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.chart import charts, dockerfile

PROJECT = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((charts.ROOT / "deploy" / "compose.yaml").read_text())
SERVICES = ("gateway", "train", "find", "explain")


def test_every_target_is_there_and_builds_on_a_stage_or_the_base_image():
    every = dockerfile.stages()
    assert set(dockerfile.TARGETS) <= set(every)
    assert {s.base for s in every.values()} - set(every) == {"${PYTHON}"}
    copied = [m for s in every.values() for text in s.all("COPY") for m in re.findall(r"--from=(\S+)", text)]
    assert set(copied) <= set(every)


@pytest.mark.parametrize("target", dockerfile.TARGETS)
def test_a_target_runs_as_an_ordinary_user_behind_an_init_process(target: str):
    user = dockerfile.last(target, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert user == f"{charts.chart().values['userId']}:{charts.chart().values['userId']}"
    assert dockerfile.command(dockerfile.last(target, "ENTRYPOINT")) == ["tini", "--"]
    labels = " ".join(text for stage in dockerfile.lineage(target) for text in stage.all("LABEL"))
    assert 'org.opencontainers.image.version="${VERSION}"' in labels


@pytest.mark.parametrize("target", dockerfile.TARGETS)
def test_the_health_check_asks_the_port_that_processes_answer_on(target: str):
    check = dockerfile.command(dockerfile.last(target, "HEALTHCHECK"))
    assert check == ["python", "-m", "mistudio_rpc.probe", "127.0.0.1:50060"]
    assert "0.0.0.0:50060" in charts.main_container(charts.pods(charts.objects_of("services"))["train"])["args"]


def test_packages_are_installed_in_the_versions_that_were_tested():
    runs = [run for stage in dockerfile.stages().values() for run in stage.all("RUN")]
    installs = [run for run in runs if "pip install" in run]
    assert len(installs) == 3
    assert [run for run in installs if "--constraint constraints.txt" not in run] == []
    assert [run for run in runs if re.search(r"https?://|curl |wget ", run)] == []


def extras_of(target: str) -> set[str]:
    """The extras of the project that a target installs."""
    text = " ".join(run for stage in dockerfile.lineage(f"build-{target}") for run in stage.all("RUN"))
    return {extra for group in re.findall(r"'\.\[([a-z,]+)\]'", text) for extra in group.split(",")}


def closure(extras: set[str]) -> set[str]:
    """Names of every distribution that the project with these extras needs, as installed here."""
    wanted, found = [("mistudio", frozenset(extras))], set()
    while wanted:
        name, asked = wanted.pop()
        if (name, asked) in found:
            continue
        found.add((name, asked))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in (asked or {""})]
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                wanted.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in found} - {"mistudio"}


@pytest.mark.parametrize("target", ["gateway", "worker-cpu", "worker-cuda"])
def test_every_package_of_a_target_has_one_exact_version(target: str):
    lines = (charts.ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    needed = closure(extras_of(target))
    assert {"grpcio", "starlette"} <= needed
    # what a CUDA build of torch brings is pinned by torch itself
    assert {n for n in needed - pinned if not n.startswith(("nvidia-", "cuda-", "triton"))} <= {"setuptools"}


def test_the_gateway_has_no_torch_and_workers_have_everything():
    assert "torch" not in closure(extras_of("gateway"))
    assert extras_of("worker-cpu") == extras_of("worker-cuda") == {"gateway", "train", "find", "explain"}
    assert {"torch", "transformers"} <= closure(extras_of("worker-cpu"))


def test_what_is_copied_is_there_and_is_not_left_out():
    rules = [r for r in (charts.ROOT / ".dockerignore").read_text().splitlines() if r.startswith("!")]
    copied = [part for text in dockerfile.stages()["build"].all("COPY") for part in text.split()[:-1]]
    packages = [p.parent.name for p in charts.ROOT.glob("*/__init__.py") if p.parent.name.startswith("mistudio_")]
    assert {*packages, "gateway", "gen", "pyproject.toml", "constraints.txt"} <= set(copied)
    for name in copied:
        assert (charts.ROOT / name).exists()
        assert any(fnmatch(name, rule[1:]) for rule in rules), name


def test_versions_agree():
    version = PROJECT["version"]
    assert charts.chart().metadata["appVersion"] == version
    assert f"ARG VERSION={version}" in dockerfile.FILE.read_text()
    assert {s["image"].partition(":")[2] for s in COMPOSE["services"].values()} == {version}


def chart_containers() -> dict[str, charts.Values]:
    pods = charts.pods(charts.objects_of("services"))
    return {name: charts.main_container(pod) for name, pod in pods.items()}


def without_names(arguments: list[str]) -> list[str]:
    """Arguments without the host names that differ between a cluster and a machine."""
    return [a for a, before in zip(arguments, ["", *arguments], strict=False) if "--host-name" not in (a, before)]


@pytest.mark.parametrize("service", SERVICES)
def test_compose_runs_what_the_chart_runs(service: str):
    rendered, composed = chart_containers()[service], COMPOSE["services"][service]
    assert without_names(composed["command"]) == without_names(rendered["args"])
    assert composed["image"] == rendered["image"]
    assert composed["networks"]["default"]["aliases"] == [f"mistudio-{service}"]
    names = {e["name"] for e in rendered["env"]} - {"MISTUDIO_ENGINES_FILE"}
    assert set(composed["environment"]) == names
    assert composed["build"]["target"] in dockerfile.TARGETS


@pytest.mark.parametrize("service", SERVICES)
def test_compose_closes_what_the_chart_closes(service: str):
    composed = COMPOSE["services"][service]
    assert composed["user"] == "10001:10001"
    assert composed["read_only"] is True
    assert composed["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in composed.get("ports", []))
    grace = charts.pods(charts.objects_of("services"))[service]["spec"]["terminationGracePeriodSeconds"]
    assert int(composed["stop_grace_period"].removesuffix("s")) >= grace
    mounted = {v["mountPath"] for v in chart_containers()[service]["volumeMounts"]}
    targets = {secret["target"] for secret in composed["secrets"]}
    assert {t.rpartition("/")[0] for t in targets} == mounted & {"/etc/mistudio/tls", "/etc/mistudio/auth"}


def test_compose_has_one_volume_and_a_home_for_each_service():
    assert list(COMPOSE["volumes"]) == ["data"]
    homes = [COMPOSE["services"][s]["environment"]["MISTUDIO_HOME"] for s in SERVICES if s != "gateway"]
    assert len(set(homes)) == 3
    assert set(COMPOSE["secrets"]) == {"tls.crt", "tls.key", "ca.crt", "token"}


def test_certificates_are_made_once(tmp_path: Path):
    script = charts.ROOT / "deploy" / "docker" / "certificates.sh"
    for _ in range(2):
        subprocess.run([script, tmp_path], check=True, capture_output=True, timeout=60)
        made = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(made) == {"tls.crt", "tls.key", "ca.crt"}
    assert (tmp_path / "tls.key").stat().st_mode & 0o077 == 0
    subprocess.run([script, tmp_path], check=True, capture_output=True, timeout=60)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == made


def test_the_health_check_of_a_container_says_no_where_nothing_answers():
    asked = [sys.executable, "-m", "mistudio_rpc.probe"]
    assert subprocess.run([*asked, "127.0.0.1:1"], timeout=60).returncode == 1
    assert subprocess.run(asked, timeout=60, capture_output=True).returncode == 2


def test_commands_in_the_charts_readme_parse():
    for body in re.findall(r"```bash\n(.*?)```", (charts.CHART / "README.md").read_text(), re.DOTALL):
        assert subprocess.run(["bash", "-n"], input=body, text=True, timeout=10).returncode == 0
