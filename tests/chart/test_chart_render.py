"""Real Helm lints and renders every values file, and every object is one that Kubernetes knows."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.chart import charts, pages

VERSIONS = re.findall(r"Kubernetes (1\.\d+) to (1\.\d+)", (charts.CHART / "README.md").read_text())[0]
NOT_IN_KUBERNETES = {"Certificate"}
"""Kinds of other projects, whose schemas are not here."""


@pytest.mark.parametrize("name", charts.FILES)
@pytest.mark.parametrize("version", VERSIONS)
def test_helm_finds_nothing_to_lint(name: str, version: str):
    report = helm_python.lint(
        charts.CHART, charts.values_of(charts.FILES[name]), strict=True, namespace="any", kube_version=f"v{version}.0"
    )
    assert report["errors"] == []
    assert [m for m in report["messages"] if "icon is recommended" not in m["error"]] == []


@pytest.mark.parametrize("name", charts.FILES)
def test_kubernetes_knows_every_object(name: str):
    found = charts.objects_of(name)
    assert len(found) > 5
    for version in VERSIONS:
        for rendered in found:
            if rendered["kind"] not in NOT_IN_KUBERNETES:
                kubernetes_validate.validate(rendered, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found():
    rendered = yaml.safe_load(yaml.safe_dump(charts.objects_of("embedded")[0]))
    rendered["metadata"]["lables"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(rendered, VERSIONS[0], strict=True)


HELM = {"x86_64": "9108c3a68d6ed3a394d02543bb4afeeb9f9e2bbcf9fbc228f48ac5576e3bdf83"}
"""SHA-256 of the Helm library by machine: its package has one author."""


def test_helm_is_the_one_that_was_looked_at():
    found = hashlib.sha256(Path(helm_python.library_path).read_bytes()).hexdigest()
    assert HELM.get(platform.machine(), found) == found


def test_the_oldest_version_is_the_one_that_the_chart_asks_for():
    assert charts.chart().metadata["kubeVersion"] == f">={VERSIONS[0]}.0-0"


@pytest.mark.parametrize("name", charts.FILES)
def test_snapshots_show_what_is_rendered(name: str):
    kept = pages.snapshot_file(name).read_text()
    assert kept == pages.snapshot(name), "run `make chart`, look at the difference, and commit it"


def test_there_is_no_snapshot_of_anything_else():
    assert {p.stem for p in pages.SNAPSHOTS.iterdir()} == set(charts.FILES)


def test_the_readme_has_the_values_as_they_are():
    assert pages.readme() == pages.README.read_text(), "run `make chart-docs` and commit it"


def test_every_value_is_documented():
    assert [value.path for value in pages.documented() if not value.text] == []
    paths = {value.path for value in pages.documented()}
    assert paths >= {path for path, _ in leaves(charts.chart().values)}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every value that is no map with known keys."""
    for key, value in values.items():
        if isinstance(value, dict) and value and not OPEN.search(f"{prefix}{key}"):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


OPEN = re.compile(r"(resources\.(requests|limits)|ingress\.annotations)$")
"""Maps with free keys that have defaults."""


def test_every_value_that_a_template_uses_is_defined():
    defaults = charts.chart().values
    used = set()
    for file in (charts.CHART / "templates").iterdir():
        used |= set(re.findall(r"(?:\$|\.root|\$root)?\.Values\.([A-Za-z0-9.]+[A-Za-z0-9])", file.read_text()))
        used |= set(re.findall(r"\$values\.([A-Za-z0-9.]+[A-Za-z0-9])", file.read_text()))
    assert len(used) > 30
    assert [path for path in sorted(used) if not _defined(defaults, path)] == []


def _defined(values: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


ELSEWHERE: dict[str, Any] = {
    "profile": "services",
    "image.pullPolicy": "Always",
    "tls.certManager.issuer.kind": "Issuer",
    "tls.certManager.duration": "999h",
    "tls.certManager.renewBefore": "99h",
    "shared.accessMode": "ReadWriteOnce",
    "gateway.service.type": "LoadBalancer",
    "engines.vllm.memoryFraction": 0.5,
    "engines.ollama.baseUrl": "http://10.0.0.9:11434",
    "engines.ollama.egressCidr": "10.0.0.0/8",
    "engines.extra": {"more": {"kind": "openai_compatible"}},
    "env": {"SOME_SETTING": "1"},
    "networkPolicy.gatewayFrom": [{"podSelector": {}}],
    "networkPolicy.explainEgress": [{"ports": [{"port": 1}]}],
}
"""Another value where a changed number, name, list or switch will not do."""


def another(path: str, value: Any) -> Any:
    """A value that is allowed and not the one that was given."""
    tail = path.rpartition(".")[2]
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    special = {
        "size": "77Gi",
        "sharedMemory": "77Gi",
        "tag": "other",
        "digest": f"sha256:{'0' * 64}",
        "resource": "example.com/gpu",
        "tolerations": [{"operator": "Exists", "key": "other"}],
        "nodeSelector": {"other": "label"},
        "requests": {"cpu": "7", "memory": "7Gi"},
        "limits": {"cpu": "77", "memory": "77Gi"},
        "annotations": {"other": "one"},
        "flavour": "vllm" if path.startswith("explain") else "cuda",
    }
    if tail in special:
        return special[tail]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return ["other"] if isinstance(value, list) else "other"


def nested(path: str, value: Any) -> charts.Values:
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def _texts(values: charts.Values) -> str | None:
    """All that is rendered; a refusal counts as an effect of the value too."""
    try:
        return "".join(charts.chart().render(values, name="x", namespace="y").values())
    except helm_python.HelmError as error:
        return str(error)


def bases() -> list[charts.Values]:
    """Installations of which at least one shows each value."""
    gpu = {"image": {"flavour": "vllm"}, "gpu": {"count": 1}}
    services = charts.merged(
        charts.values_of(charts.FILES["services-gpu"]), {"find": {**gpu, "image": {"flavour": "cuda"}}}
    )
    embedded = charts.merged(
        charts.values_of(charts.FILES["embedded"]),
        {"embedded": gpu, "engines": {"vllm": {"enabled": True, "model": "m"}}},
    )
    return [services, embedded, charts.values_of(charts.FILES["services"])]


def test_every_value_that_is_defined_is_used():
    installations = [(base, _texts(base)) for base in bases()]
    unused = []
    for path, _ in leaves(charts.chart().values):
        for base, before in installations:
            now = charts.merged(charts.chart().values, base)
            for part in path.split("."):
                now = now[part]
            if _texts(charts.merged(base, nested(path, another(path, now)))) != before:
                break
        else:
            unused.append(path)
    assert unused == []
