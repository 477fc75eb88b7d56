"""The chart as tests see it: its values files, and the objects that real Helm renders from them."""

from __future__ import annotations

import copy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "mistudio"
RELEASE, NAMESPACE = "mistudio", "interpret"
NOTES = "templates/NOTES.txt"
Values = dict[str, Any]


@lru_cache(maxsize=1)
def chart() -> helm_python.Chart:
    """The chart, loaded once."""
    return helm_python.Chart.load(CHART)


def values_of(file: Path) -> Values:
    """The values of a file."""
    loaded: Values = yaml.safe_load(file.read_text())
    return loaded


def merged(base: Values, more: Values) -> Values:
    """`base` with the values of `more` over it, as Helm merges them."""
    out = copy.deepcopy(base)
    for key, value in more.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


FILES = {path.stem: path for path in [*sorted((CHART / "ci").glob("*.yaml")), CHART / "values-microk8s.yaml"]}
"""Every values file that must render, by its name."""


def rendered(values: Values) -> dict[str, str]:
    """Template name -> text, of what is not empty. Checks the schema, as an installation does."""
    chart().validate_schema(values)
    texts = chart().render(values, name=RELEASE, namespace=NAMESPACE)
    return {name.partition("/")[2]: text for name, text in texts.items() if text.strip()}


def objects(values: Values) -> list[Values]:
    """Every object."""
    texts = [text for name, text in rendered(values).items() if name != NOTES]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


@cache
def objects_of(name: str) -> tuple[Values, ...]:
    """The objects of a values file."""
    return tuple(objects(values_of(FILES[name])))


def of_kind(found: list[Values] | tuple[Values, ...], kind: str) -> dict[str, Values]:
    """Objects of a kind by name, without the release's prefix."""
    return {o["metadata"]["name"].removeprefix(f"{RELEASE}-"): o for o in found if o["kind"] == kind}


def pods(found: list[Values] | tuple[Values, ...]) -> dict[str, Values]:
    """The pod template of every workload by name."""
    return {name: deployment["spec"]["template"] for name, deployment in of_kind(found, "Deployment").items()}


def main_container(pod: Values) -> Values:
    """The one container of a pod."""
    (container,) = pod["spec"]["containers"]
    return dict(container)
