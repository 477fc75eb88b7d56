"""The engines of every kind as they stand now, and what can be done to each: start, stop, load, unload.

Managed engines are the pool's; an Ollama server is asked; what can only be done elsewhere is refused
with where. Lives in the control process: nothing is imported for an engine before it is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from mistudio_core import clock
from mistudio_core.engine_records import FAILED, READY, STARTING, EngineRecord
from mistudio_core.errors import MistudioError, NotFound, Unsupported
from mistudio_core.home import Home
from mistudio_explain.engines.base import Engine, ModelInfo, Progress
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.settings import choose_engine, load_engines
from mistudio_explain.engines.table import LEXICAL, OLLAMA, OPENAI_COMPATIBLE, EngineSettings
from mistudio_explain.engines.vllm_models import list_models
from mistudio_explain.engines.vllm_pool import VllmPool, state_of
from mistudio_explain.engines.vllm_settings import VllmSettings

log = logging.getLogger("mistudio.engines")
HEARTBEAT_SECONDS = 15.0
_ASK_SECONDS = 2.0
_KNOWN_SECONDS = 5.0
_FIRST_NEWS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """A model of an engine, and what is under way with it."""

    info: ModelInfo
    """The model."""
    progress: float | None = None
    """Share that is pulled or loaded; None where nothing is under way, or the share is not known."""
    activity: str = ""
    """What is under way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatus:
    """An engine as it stands now."""

    settings: EngineSettings
    """How it is configured."""
    state: str = ""
    """As in mistudio_core.engine_records, `degraded` too; empty where it has not been asked."""
    message: str = ""
    """Why it stands there, or what to do."""
    models: tuple[ModelStatus, ...] = ()
    """Models that it has."""
    processes: tuple[EngineRecord, ...] = ()
    """Its processes; only of a managed one."""


@dataclass(slots=True)
class _Known:
    """What a server that runs elsewhere said last."""

    at: float
    state: str
    message: str
    models: Sequence[ModelInfo]


class Roster:
    """All engines of an installation."""

    def __init__(self, home: Home, pool: VllmPool) -> None:
        """`pool` has the managed engines."""
        self._home, self._pool = home, pool
        self._known: dict[str, _Known] = {}
        self._loads: dict[tuple[str, str], Progress] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Leaves loads that are under way to their servers."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settings(self, name: str) -> EngineSettings:
        return choose_engine(await asyncio.to_thread(load_engines, self._home.engines_file), name)

    async def all(self, name: str = "") -> list[EngineStatus]:
        """Every engine, or one, in name order. Raises NotFound (ENGINE_NOT_FOUND), InvalidInput."""
        engines = await asyncio.to_thread(load_engines, self._home.engines_file)
        wanted = [choose_engine(engines, name)] if name else list(engines.values())
        return list(await asyncio.gather(*map(self._status, wanted)))

    async def one(self, name: str) -> EngineStatus:
        """An engine. Raises NotFound (ENGINE_NOT_FOUND)."""
        return await self._status(await self._settings(name))

    async def _status(self, settings: EngineSettings) -> EngineStatus:
        if settings.kind == LEXICAL:
            return EngineStatus(settings=settings, state=READY, message="needs no model and is always there")
        if isinstance(settings, VllmSettings) and settings.managed:
            return await self._managed_status(settings)
        if settings.kind in (OLLAMA, OPENAI_COMPATIBLE) or isinstance(settings, VllmSettings):
            return await self._asked(settings)
        return EngineStatus(settings=settings, message="is asked only with a budget" if settings.costs_money else "")

    async def _managed_status(self, settings: VllmSettings) -> EngineStatus:
        records = self._pool.records(settings.name)
        serving = {r.model for r in records if r.state == READY}
        loading = {r.model for r in records if r.state == STARTING}
        names = {*serving, *loading, *await asyncio.to_thread(list_models, self._home), *filter(None, [settings.model])}
        models = tuple(
            ModelStatus(info=ModelInfo(name=n, loaded=n in serving), activity="loads" if n in loading else "")
            for n in sorted(names)
        )
        state = state_of(records)
        said = [r.message for r in records if r.state in (FAILED, STARTING)] or [r.message for r in records]
        default = "starts when it is first asked, or with `mistudio engines start`"
        message = said[0] if said else default
        return EngineStatus(
            settings=settings,
            state=state,
            message=message,
            models=models,
            processes=tuple(r for r in records if r.digest),
        )

    async def _asked(self, settings: EngineSettings) -> EngineStatus:
        """A server that runs elsewhere, as it answers now or did a moment ago."""
        known = self._known.get(settings.name)
        if known is None or clock.monotonic() - known.at > _KNOWN_SECONDS:
            known = self._known[settings.name] = await self._ask(settings)
        under_way = {model: p for (engine, model), p in self._loads.items() if engine == settings.name}
        infos = {m.name: m for m in known.models}
        infos |= {model: ModelInfo(name=model) for model in under_way if model not in infos}
        models = tuple(_model_status(infos[n], under_way.get(n)) for n in sorted(infos))
        return EngineStatus(settings=settings, state=known.state, message=known.message, models=models)

    async def _ask(self, settings: EngineSettings) -> _Known:
        engine: Engine | None = None
        try:
            async with asyncio.timeout(_ASK_SECONDS + settings.connect_seconds):
                engine = await asyncio.to_thread(create_engine, settings)
                models = await engine.models()
            return _Known(clock.monotonic(), READY, "", models)
        except MistudioError as error:
            return _Known(clock.monotonic(), FAILED, error.message, ())
        except TimeoutError:
            return _Known(clock.monotonic(), FAILED, f"did not answer within {_ASK_SECONDS:g} s", ())
        finally:
            if engine is not None:
                await engine.close()

    async def start(self, name: str, model: str) -> EngineStatus:
        """Starts a managed engine; see VllmPool.start for what is raised."""
        settings = await self._settings(name)
        await self._pool.start(settings, model)
        return await self._status(settings)

    async def stop(self, name: str, drain_seconds: float) -> EngineStatus:
        """Stops a managed engine. Raises NotFound (ENGINE_NOT_FOUND), Unsupported."""
        settings = await self._settings(name)
        await self._pool.stop(settings, drain_seconds=drain_seconds)
        return await self._status(settings)

    async def load(self, name: str, model: str) -> EngineStatus:
        """Loads a model: a managed engine is switched to it, an Ollama server pulls it where it has to."""
        settings = await self._settings(name)
        if isinstance(settings, VllmSettings) and settings.managed:
            await self._pool.start(settings, model)
        elif settings.kind == OLLAMA:
            await self._load_there(settings, model)
        else:
            raise _fixed(settings, "loading a model")
        return await self._status(settings)

    async def _load_there(self, settings: EngineSettings, model: str) -> None:
        """Begins a load, and waits for its first news: what is refused at once is raised here."""
        if (settings.name, model) in self._loads:
            return
        self._note(settings.name, model, Progress(activity="asked for"))
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._load(settings, model, news))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({news}, timeout=_FIRST_NEWS_SECONDS)
        if news.done():
            news.result()

    async def _load(self, settings: EngineSettings, model: str, news: asyncio.Future[None]) -> None:
        engine = await asyncio.to_thread(create_engine, settings, model=model)
        try:
            async for progress in engine.load(model):
                self._note(settings.name, model, progress)
                if not news.done():
                    news.set_result(None)
        except MistudioError as error:
            log.warning("engine %s cannot load %s: %s", settings.name, model, error.message)
            if not news.done():
                news.set_exception(error)
        finally:
            await engine.close()
            self._note(settings.name, model, None)

    def _note(self, engine: str, model: str, progress: Progress | None) -> None:
        if progress is None:
            self._loads.pop((engine, model), None)
            self._known.pop(engine, None)
        else:
            self._loads[engine, model] = progress
        self._changed.set()
        self._changed = asyncio.Event()

    async def unload(self, name: str, model: str) -> EngineStatus:
        """Takes a model out of memory: a managed engine ends, as its processes have one model each."""
        settings = await self._settings(name)
        if isinstance(settings, VllmSettings) and settings.managed:
            serving = {r.model for r in self._pool.records(name) if r.pid}
            if serving and model not in serving:
                there = ", ".join(sorted(serving))
                raise NotFound(
                    f"Engine {name!r} serves {there}, not {model!r}.",
                    reason="MODEL_NOT_FOUND",
                    facts={"model": model, "models": there},
                )
            await self._pool.stop(settings)
        elif settings.kind == OLLAMA:
            engine = await asyncio.to_thread(create_engine, settings, model=model)
            try:
                await engine.unload(model)
            finally:
                await engine.close()
            self._known.pop(name, None)
        else:
            raise _fixed(settings, "unloading a model")
        return await self._status(settings)

    async def watch(self, name: str, stopping: Callable[[], bool]) -> AsyncIterator[EngineStatus | None]:
        """All engines, or one, then each as it changes; None for a sign of life; ends when `stopping` says so."""
        sent: dict[str, EngineStatus] = {}
        told = clock.monotonic()
        while not stopping():
            changes = {asyncio.ensure_future(e.wait()) for e in (self._changed, self._pool.changed)}
            try:
                for status in await self.all(name):
                    if sent.get(status.settings.name) != status:
                        sent[status.settings.name] = status
                        told = clock.monotonic()
                        yield status
                if clock.monotonic() - told >= HEARTBEAT_SECONDS:
                    told = clock.monotonic()
                    yield None
                await asyncio.wait(changes, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()


def _model_status(info: ModelInfo, progress: Progress | None) -> ModelStatus:
    if progress is None:
        return ModelStatus(info=info)
    share = progress.done_bytes / progress.total_bytes if progress.total_bytes else None
    return ModelStatus(info=info, progress=None if share is None else min(share, 1.0), activity=progress.activity)


def _fixed(settings: EngineSettings, what: str) -> Unsupported:
    return Unsupported(
        f"{what} of engine {settings.name!r}",
        why=f"a {settings.kind} engine has the models that it has",
        instead="Name another model of it in the request, or use an engine of kind vllm (with devices) or ollama.",
    )
