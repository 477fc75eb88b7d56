"""Which engines an installation has: a TOML file of the administrator's, never a request.

Owns reading the file and its keys for all engines together; one engine's table is table.py's,
and factory.py makes engines of them. Keys of providers stand in files of their own, named here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mistudio_core.errors import InvalidInput, NotFound, Unsupported
from mistudio_explain.engines.lexical import LEXICAL_MODEL
from mistudio_explain.engines.ollama_settings import OllamaSettings
from mistudio_explain.engines.table import KINDS, LEXICAL, OLLAMA, OPENAI_COMPATIBLE, VLLM, EngineSettings
from mistudio_explain.engines.vllm_settings import VllmSettings
from mistudio_explain.policy.routing import Routing

__all__ = ["LEXICAL", "OPENAI_COMPATIBLE", "EngineSettings", "Engines", "choose_engine", "load_engines"]
_EMBEDDING = "embedding"
_T = TypeVar("_T")
_KEYS = ("default", "judge", "fallback", "routing", "engines")
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "float | None": (int, float),
    "tuple[str, ...]": (list, tuple),
}


def settings_class(kind: str) -> type[EngineSettings]:
    """The dataclass whose fields a table of this kind may have."""
    return {VLLM: VllmSettings, OLLAMA: OllamaSettings}.get(kind, EngineSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engines(Mapping[str, EngineSettings]):
    """The engines by name, and what is configured for all of them together. A Mapping of their settings."""

    by_name: Mapping[str, EngineSettings]
    """Settings by name, lexical among them."""
    judge: str = ""
    """Judge unless a request names one: an engine, `lexical` or `embedding`; empty for lexical."""
    fallback: tuple[str, ...] = ()
    """Engines that are asked in this order where the chosen one fails."""
    routing: Routing = field(default_factory=Routing)
    """Which model explains which features, for engines without a model of their own."""

    def __getitem__(self, name: str) -> EngineSettings:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    @classmethod
    def of(
        cls,
        *settings: EngineSettings,
        judge: str = "",
        fallback: tuple[str, ...] = (),
        routing: Routing | None = None,
    ) -> Engines:
        """These and lexical, which is the default unless one of them is. Raises InvalidInput for an unknown name."""
        found = {s.name: s for s in settings}
        default = next((s.name for s in settings if s.is_default), LEXICAL)
        lexical = EngineSettings(name=LEXICAL, kind=LEXICAL, model=LEXICAL_MODEL, is_default=default == LEXICAL)
        found.setdefault(LEXICAL, lexical)
        routing = routing or Routing()
        for key, names in (("judge", (judge,) if judge else ()), ("fallback", fallback), ("routing", routing.engines)):
            allowed = sorted({*found, _EMBEDDING} if key == "judge" else found)
            for name in names:
                if name not in allowed:
                    raise InvalidInput.field(key, name, ", ".join(allowed), "Give it a table in the engines file.")
        by_name = dict(sorted(found.items()))
        return cls(by_name=by_name, judge=judge, fallback=tuple(dict.fromkeys(fallback)), routing=routing)


def load_engines(path: Path | None) -> Engines:
    """The engines of a TOML file by name, and lexical; only lexical where there is no file.

    Form: one table `[engines.NAME]` each with the fields of its kind's settings, and the keys default, judge,
    fallback and routing (see Engines). Unknown keys are refused. Raises InvalidInput, NotFound (ENGINE_NOT_FOUND).
    """
    body: dict[str, Any] = {}
    if path is not None and path.exists():
        try:
            body = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The engines file {path.name} is not TOML: {error}.") from error
    unknown = sorted(set(body) - set(_KEYS))
    if unknown:
        raise InvalidInput.field("engines file", ", ".join(unknown), f"the keys {', '.join(_KEYS)}")
    tables = _typed(body, "engines", dict, {})
    default = _typed(body, "default", str, "")
    fallback = _typed(body, "fallback", list, [])
    if not all(isinstance(name, str) for name in fallback):
        raise InvalidInput.field("fallback", fallback, "a list of names of engines")
    found = [_settings(name, table, default) for name, table in tables.items()]
    engines = Engines.of(
        *found,
        judge=_typed(body, "judge", str, ""),
        fallback=tuple(fallback),
        routing=Routing.parse(_typed(body, "routing", dict, {})),
    )
    if default and default not in engines:
        raise _unknown(default, engines)
    return engines


def _typed(body: Mapping[str, Any], key: str, wanted: type[_T], otherwise: _T) -> _T:
    value = body.get(key, otherwise)
    if not isinstance(value, wanted):
        names = {"dict": "a table", "str": "a name", "list": "a list of names"}
        raise InvalidInput.field(key, value, names[wanted.__name__])
    return value


def _settings(name: str, table: object, default: str) -> EngineSettings:
    if not isinstance(table, dict):
        raise InvalidInput.field(f"engines.{name}", table, "a table")
    kind = table.get("kind")
    if kind not in KINDS:
        raise InvalidInput.field(f"engines.{name}.kind", kind or "", ", ".join(KINDS))
    cls = settings_class(kind)
    allowed = {f.name: str(f.type) for f in fields(cls) if f.name not in ("name", "is_default")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in allowed:
            # The value stays out: it may be a key that was meant for api_key_file.
            raise InvalidInput.field(f"engines.{name}.{key}", "an unknown key", ", ".join(sorted(allowed)))
        wanted = _TYPES[allowed[key]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise InvalidInput.field(f"engines.{name}.{key}", value, f"a value of type {allowed[key]}")
        values[key] = tuple(value) if isinstance(value, list) else value
    return cls(name=name, is_default=name == default, **values)


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
