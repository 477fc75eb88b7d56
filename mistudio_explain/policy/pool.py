"""The engines of a run: each made once, every one under the policy, all models of one sharing its guards.

Owns the budget and the cache of the run; closes everything that it made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mistudio_core.errors import InvalidInput, NotFound
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.settings import EngineSettings
from mistudio_explain.policy.budget import Budget
from mistudio_explain.policy.cache import AnswerCache
from mistudio_explain.policy.guarded import GuardedEngine, Guards

JOURNAL = "budget.journal"
"""File of the job's kept folder in which calls that cost money are noted."""


def check_budget(settings: EngineSettings, budget_usd: float, *, field: str = "engine") -> None:
    """Raises InvalidInput where an engine costs money and nothing may be spent; call it before any work."""
    if settings.costs_money and budget_usd <= 0:
        raise InvalidInput.field(
            "budget_usd",
            budget_usd,
            f"more than 0 where {field} is {settings.name!r}, whose use costs money",
            "Set budget_usd to what may be spent, or name a local engine.",
        )


class EnginePool:
    """Makes guarded engines by name and model."""

    def __init__(
        self,
        engines: Mapping[str, EngineSettings],
        config: ExplainConfig,
        *,
        kept: Path | None = None,
        cache_folder: Path | None = None,
        readable: Callable[[str], bool] = bool,
    ) -> None:
        """`kept` holds the budget's journal, `cache_folder` the cache; None for none."""
        self._engines, self._config = engines, config
        paid = config.budget_usd > 0 and kept is not None
        self.budget = Budget(config.budget_usd, kept / JOURNAL if paid and kept else None)
        self._cache = AnswerCache(cache_folder) if cache_folder and config.use_cache else None
        self._readable = readable
        self._guards: dict[str, Guards] = {}
        self._made: dict[tuple[str, str], GuardedEngine] = {}

    def guards(self, name: str) -> Guards:
        """What the models of an engine share."""
        if name not in self._guards:
            self._guards[name] = Guards.of(self._engines[name], self._config.concurrency)
        return self._guards[name]

    def get(self, name: str, model: str = "") -> GuardedEngine:
        """The engine of this name with this model, or its own. Raises as create_engine does."""
        settings = self._engines[name]
        key = (name, model or settings.model)
        if key not in self._made:
            self._made[key] = GuardedEngine(
                create_engine(settings, model=key[1]),
                settings,
                guards=self.guards(name),
                budget=self.budget,
                cache=self._cache,
                readable=self._readable,
            )
        return self._made[key]

    async def models(self, name: str) -> list[str]:
        """Names of the models that an engine has. Raises Unavailable, NotFound (MODEL_NOT_FOUND) where it has none."""
        found = [m.name for m in await self.get(name).models()]
        if not found:
            raise NotFound(
                f"Explanation engine {name!r} has no model. Load one: mistudio engines load {name} MODEL.",
                reason="MODEL_NOT_FOUND",
                facts={"engine": name},
            )
        return found

    def take_trouble(self) -> bool:
        """Whether an engine had too much to do since this was last asked."""
        windows = [g.window for g in self._guards.values()]
        found = any(w.troubled for w in windows)
        for window in windows:
            window.troubled = False
        return found

    async def close(self) -> None:
        """Closes every engine, the journal and the cache."""
        for engine in self._made.values():
            await engine.close()
        self.budget.close()
        if self._cache:
            self._cache.close()
