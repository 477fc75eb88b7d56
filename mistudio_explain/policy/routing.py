"""Which model explains which feature: a table of categories and complexities, and what roles mean here.

The table is data (rules/routing.v1.json); the engines file may replace its rules and its models.
An engine that lacks a role's model takes the next one of `small`, `fallback`, and else any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from mistudio_core.errors import InvalidInput

FALLBACK = "fallback"
"""Role that is asked where the chosen model fails."""
_LESSER = ("small", FALLBACK)
_CATEGORIES = ("technical", "conversational", "behavioral", "temporal", "general")
_COMPLEXITIES = ("low", "medium", "high")
_RULE_KEYS = ("categories", "complexities", "role")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Features that a role explains; empty sets stand for all."""

    role: str
    """Role of a model."""
    categories: frozenset[str] = frozenset()
    """Categories of features."""
    complexities: frozenset[str] = frozenset()
    """Complexities of features."""

    def holds(self, category: str, complexity: str) -> bool:
        """Whether it is about a feature of this kind."""
        return (not self.categories or category in self.categories) and (
            not self.complexities or complexity in self.complexities
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a role stands for."""

    model: str = ""
    """Model; empty for the engine's own."""
    engine: str = ""
    """Engine; empty for the one that the run uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """The table: first rule that holds, then what its role stands for."""

    rules: tuple[Rule, ...] = ()
    """In order; empty for the built-in ones."""
    targets: Mapping[str, Target] | None = None
    """Model by role; None for the built-in ones."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Routing:
        """From the key `routing` of the engines file: `rules` and `models`, both optional. Raises InvalidInput."""
        unknown = sorted(set(body) - {"rules", "models", "version"})
        if unknown:
            raise InvalidInput.field(f"routing.{unknown[0]}", "an unknown key", "rules, models")
        rules = tuple(_rule(f"routing.rules[{n}]", r) for n, r in enumerate(_list(body.get("rules", []))))
        models = body.get("models", {})
        if not isinstance(models, dict):
            raise InvalidInput.field("routing.models", models, "a table of models by role")
        targets = {role: _target(f"routing.models.{role}", value) for role, value in models.items()}
        known = {**(builtin().targets or {}), **targets} if rules or targets else {}
        for rule in rules:
            if rule.role not in known:
                raise InvalidInput.field("routing.rules.role", rule.role, ", ".join(sorted(known)))
        return cls(rules=rules, targets=targets or None)

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that its roles name."""
        return tuple(t.engine for t in (self.targets or {}).values() if t.engine)

    def role(self, category: str, complexity: str) -> str:
        """The role that explains such a feature."""
        rules = self.rules or builtin().rules
        return next((r.role for r in rules if r.holds(category, complexity)), _LESSER[0])

    def target(self, role: str) -> Target:
        """What a role stands for; the engine's own model for one that nothing stands for."""
        return {**(builtin().targets or {}), **(self.targets or {})}.get(role, Target())

    def model(self, role: str, there: Sequence[str]) -> str:
        """The role's model where it is there, else a lesser role's, else the first that is there; "" for none."""
        wanted = [self.target(r).model for r in dict.fromkeys((role, *_LESSER))]
        return next((m for m in wanted if m and m in there), there[0] if there else "")


@lru_cache(maxsize=1)
def builtin() -> Routing:
    """The table that comes with miStudio."""
    text = resources.files("mistudio_explain").joinpath("rules/routing.v1.json").read_text(encoding="utf-8")
    body = json.loads(text)
    return Routing(
        rules=tuple(_rule("rules", r) for r in body["rules"]),
        targets={role: Target(model=model) for role, model in body["models"].items()},
    )


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput.field("routing.rules", value, "a list of tables")
    return value


def _rule(where: str, body: object) -> Rule:
    if not isinstance(body, dict) or set(body) - set(_RULE_KEYS) or not isinstance(body.get("role"), str):
        raise InvalidInput.field(where, body, "a table with role, and with categories and complexities or without")
    for key, known in (("categories", _CATEGORIES), ("complexities", _COMPLEXITIES)):
        given = body.get(key, [])
        if not isinstance(given, list) or not set(map(str, given)) <= set(known):
            raise InvalidInput.field(f"{where}.{key}", given, f"a list of {', '.join(known)}")
    return Rule(
        role=body["role"],
        categories=frozenset(body.get("categories", ())),
        complexities=frozenset(body.get("complexities", ())),
    )


def _target(where: str, value: object) -> Target:
    if isinstance(value, str) and value:
        return Target(model=value)
    named = isinstance(value, dict) and value and set(value) <= {"model", "engine"}
    if isinstance(value, dict) and named and all(isinstance(v, str) for v in value.values()):
        return Target(**value)
    raise InvalidInput.field(where, value, "the name of a model, or a table with engine and model")
