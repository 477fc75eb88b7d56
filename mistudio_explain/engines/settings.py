"""Which engines an installation has: a TOML file of the administrator's, never a request.

Owns reading and refusing; factory.py makes engines of them. Keys of providers
stand in files of their own, named here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mistudio_core.errors import InvalidInput, NotFound, Unsupported
from mistudio_explain.engines.lexical import LEXICAL_MODEL

LEXICAL = "lexical"
"""Name and kind of the engine that is always there."""
OPENAI_COMPATIBLE = "openai_compatible"
"""Kind of an engine behind an OpenAI-compatible URL."""
_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """One configured engine. Raises InvalidInput for what cannot be used."""

    name: str
    """Name to use in requests."""
    kind: str
    """`lexical` or `openai_compatible`."""
    base_url: str = ""
    """For example `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """Model unless a request names one."""
    api_key_file: str = ""
    """File that holds the key; empty for none."""
    is_default: bool = False
    """Whether it is what a request without engine gets."""
    connect_seconds: float = 5.0
    """Time to connect."""
    first_byte_seconds: float = 30.0
    """Time until the first piece of the answer."""
    total_seconds: float = 120.0
    """Time for one explanation, retries included."""
    attempts: int = 3
    """Tries for one explanation."""
    max_response_bytes: int = 262_144
    """Largest answer that is read."""
    max_output_tokens: int = 400
    """Tokens that the model may write."""

    def __post_init__(self) -> None:
        where = f"engines.{self.name}"
        if not _NAME.match(self.name):
            raise InvalidInput.field("engines", self.name, "letters, digits, dot, dash and underscore, at most 100")
        if self.kind not in (LEXICAL, OPENAI_COMPATIBLE):
            raise InvalidInput.field(f"{where}.kind", self.kind, f"{LEXICAL} or {OPENAI_COMPATIBLE}")
        if (self.kind == LEXICAL) != (self.name == LEXICAL):
            raise InvalidInput.field(where, self.kind, "the name lexical for the lexical engine and no other")
        if self.kind == OPENAI_COMPATIBLE:
            self._check_remote(where)

    def _check_remote(self, where: str) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput.field(
                f"{where}.base_url", self.base_url.split("@")[-1], "an http or https URL without user or password"
            )
        if not self.model:
            raise InvalidInput.field(f"{where}.model", self.model, "the name of a model")
        for name in (
            "connect_seconds",
            "first_byte_seconds",
            "total_seconds",
            "attempts",
            "max_response_bytes",
            "max_output_tokens",
        ):
            if not 0 < getattr(self, name) < 1e9:
                raise InvalidInput.field(f"{where}.{name}", getattr(self, name), "a positive number")


def load_engines(path: Path | None) -> dict[str, EngineSettings]:
    """The engines of a TOML file by name, and lexical; only lexical where there is no file.

    Form: `default = "name"` and one table `[engines.name]` each with the fields of EngineSettings.
    Unknown keys are refused. Raises InvalidInput.
    """
    body: dict[str, Any] = {}
    if path is not None and path.exists():
        try:
            body = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The engines file {path.name} is not TOML: {error}.") from error
    tables = body.pop("engines", {})
    default = body.pop("default", LEXICAL)
    if body or not isinstance(tables, dict) or not isinstance(default, str):
        raise InvalidInput.field("engines file", ", ".join(sorted(body)) or "its form", "the keys default and engines")
    found = {name: _settings(name, table, default) for name, table in tables.items()}
    found.setdefault(
        LEXICAL, EngineSettings(name=LEXICAL, kind=LEXICAL, model=LEXICAL_MODEL, is_default=default == LEXICAL)
    )
    if default not in found:
        raise _unknown(default, found)
    return dict(sorted(found.items()))


def _settings(name: str, table: object, default: str) -> EngineSettings:
    allowed = {f.name: f for f in fields(EngineSettings) if f.name not in ("name", "is_default")}
    if not isinstance(table, dict):
        raise InvalidInput.field(f"engines.{name}", table, "a table")
    for key, value in table.items():
        if key not in allowed:
            raise InvalidInput.field(f"engines.{name}.{key}", "an unknown key", ", ".join(sorted(allowed)))
        wanted: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}[str(allowed[key].type)]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise InvalidInput.field(f"engines.{name}.{key}", value, f"a value of type {allowed[key].type}")
    if "kind" not in table:
        raise InvalidInput.field(f"engines.{name}.kind", "", f"{LEXICAL} or {OPENAI_COMPATIBLE}")
    return EngineSettings(name=name, is_default=name == default, **table)


def choose_engine(engines: Mapping[str, EngineSettings], name: str, model: str = "") -> EngineSettings:
    """The engine of this name, else the default. Raises NotFound (ENGINE_NOT_FOUND), Unsupported."""
    chosen = engines.get(name) if name else next((e for e in engines.values() if e.is_default), None)
    if chosen is None:
        raise _unknown(name, engines)
    if model and chosen.kind == LEXICAL:
        raise Unsupported("model", why="the lexical engine has no model", instead="Leave model empty.")
    return chosen


def _unknown(name: str, engines: Mapping[str, EngineSettings]) -> NotFound:
    names = ", ".join(sorted(engines))
    return NotFound(
        f"No explanation engine is called {name!r}. There are: {names}.",
        reason="ENGINE_NOT_FOUND",
        facts={"engine": name, "engines": names},
    )
