"""What a table of kind `ollama` may set beyond what every engine has."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio_explain.engines.table import EngineSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class OllamaSettings(EngineSettings):
    """An Ollama server; `base_url` is `http://ollama.mistudio-services.svc:11434` unless set. Raises InvalidInput."""

    keep_alive_minutes: float = 30.0
    """How long a model stays in memory after its last answer."""
    load_seconds: float = 900.0
    """Longest time to load a model, and longest silence while one is pulled."""

    def check_model(self) -> None:
        """Called last of the checks: what only this kind has."""
        for name, high in (("keep_alive_minutes", 100_000.0), ("load_seconds", 86_400.0)):
            if not 0 < getattr(self, name) <= high:
                raise self.problem(name, getattr(self, name), f"more than 0, at most {high:g}")
