"""Where a run comes from: what it read, how it was asked, and the version of all that had a part in it.

Owns the `technical` part of the results. A rule or prompt file is named with its SHA-256, so that an
auditor can tell whether two runs followed the same rules.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata as installed
from importlib import resources
from typing import Any

import mistudio_core
from mistudio_explain.config import METRICS_VERSION, ExplainConfig
from mistudio_explain.engines.settings import EngineSettings

_LIBRARIES = ("numpy", "jinja2", "openai", "anthropic", "typst")
_ORIGIN = ("layer", "hook_name", "model_revision", "sae_sha256", "corpus_sha256")


def technical(
    config: ExplainConfig,
    job_id: str,
    find: Mapping[str, Any],
    settings: EngineSettings,
    *,
    features_in_all: int,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Lineage, configuration and versions; `find` is the analysis' metadata, `more` what the caller knows besides."""
    lineage = find.get("lineage", {})
    return {
        "model": find.get("model_name", ""),
        "explain_job": job_id,
        "find_job": find.get("job_id", ""),
        "training_job": find.get("source_training_job", ""),
        **{key: lineage.get(key, "") for key in _ORIGIN},
        **{key: value for key, value in lineage.items() if key.startswith("origin_")},
        "features_in_all": features_in_all,
        "engine": settings.name,
        "engine_kind": settings.kind,
        "engine_model": config.model or settings.model,
        "metrics": METRICS_VERSION,
        **(more or {}),
        "configuration": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()},
        "find_configuration": find.get("config", {}),
        "find_versions": find.get("versions", {}),
        "rule_files": rule_files(),
        "software": software(),
    }


@lru_cache(maxsize=1)
def rule_files() -> dict[str, str]:
    """SHA-256 of every rule and prompt file of this version, by name."""
    found = {}
    for folder in ("rules", "prompts"):
        for file in sorted(resources.files("mistudio_explain").joinpath(folder).iterdir(), key=lambda f: f.name):
            if file.is_file() and not file.name.startswith((".", "__")):
                found[f"{folder}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@lru_cache(maxsize=1)
def software() -> dict[str, str]:
    """Versions of what made the results."""
    found = {"mistudio": mistudio_core.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = installed.version(name)
        except installed.PackageNotFoundError:
            continue
    return found
