"""The vllm engine as workers use it: one Engine over all processes, or external servers, that are ready.

Finds managed processes by the file that the control process writes, sends each request to the
endpoint with the fewest outstanding, and waits where an engine starts. Starts no process itself: it
leaves a wish, and the pool grants it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mistudio_core import clock
from mistudio_core.engine_records import FAILED, READY, EngineRecord, read_records, state_file, wish, wish_ignored
from mistudio_core.errors import MistudioError, Unavailable, Unsupported
from mistudio_core.home import Home
from mistudio_core.secret import Secret
from mistudio_explain.engines import failures
from mistudio_explain.engines.base import ChatRequest, Failure, FailureKind, Limits, ModelInfo, Progress, Reply
from mistudio_explain.engines.counting import Count, file_counter
from mistudio_explain.engines.openai_compatible import CAUGHT, OpenAICompatibleEngine
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.engines.transport import http_client
from mistudio_explain.engines.vllm_models import find_model, list_models
from mistudio_explain.engines.vllm_process import read_key
from mistudio_explain.engines.vllm_settings import VllmSettings

_LOOK_SECONDS = 0.2
_LOOKS = 10
_LEAVE_ALONE_SECONDS = 3.0
_BROKEN: tuple[FailureKind, ...] = ("unreachable", "cut_off")


@dataclass(slots=True)
class _Endpoint:
    """One server and what it has from here."""

    url: str
    engine: OpenAICompatibleEngine
    record: EngineRecord | None = None
    outstanding: int = 0
    not_before: float = 0.0
    served: int = field(default=0)

    @property
    def usable(self) -> bool:
        """Whether it may be asked now: its process lives, and it has not just failed."""
        alive = self.record is None or self.record.process.alive
        return alive and clock.monotonic() >= self.not_before


class VllmEngine:
    """Routes to the least outstanding of the endpoints that serve its model."""

    def __init__(self, settings: EngineSettings, *, model: str, api_key: Secret, home: Home | None = None) -> None:
        """`api_key` is for external servers; managed processes have keys of their own in the home."""
        if not isinstance(settings, VllmSettings):
            raise TypeError("settings of kind vllm are wanted")
        self.name, self.kind, self.model = settings.name, settings.kind, model
        self._settings = settings
        self._home = home or Home.at()
        self._key = api_key
        self._context = settings.context_tokens or settings.max_model_len
        self._seen = -1
        self._wished = 0.0
        self._http = http_client(settings)
        self._endpoints: dict[str, _Endpoint] = {}
        self._left: list[_Endpoint] = []
        self._folder: Path | None = None
        self._searched = False
        for url in settings.urls:
            self._endpoints[url] = self._endpoint(url, None, api_key)

    def _endpoint(self, url: str, record: EngineRecord | None, key: Secret) -> _Endpoint:
        return _Endpoint(url, OpenAICompatibleEngine(self._settings.at(url), model=self.model, api_key=key), record)

    @property
    def limits(self) -> Limits:
        """See Engine: what all endpoints together take."""
        many = max(len(self._endpoints), 1) * self._settings.max_num_seqs
        return Limits(
            concurrency=min(self._settings.concurrency, many),
            context_tokens=self._context,
            max_output_tokens=self._settings.max_output_tokens,
        )

    async def close(self) -> None:
        """See Engine."""
        for endpoint in (*self._endpoints.values(), *self._left):
            await endpoint.engine.close()
        await self._http.aclose()

    async def check(self) -> None:
        """See Engine: a managed engine that starts is waited for, one that a person stopped is not."""
        if not self._settings.managed:
            await self._check_external()
            return
        deadline = clock.monotonic() + self._settings.start_seconds
        while (endpoint := await self._pick(deadline)) is not None:
            try:
                await endpoint.engine.check()
            except Unavailable:
                if not await self._gone(endpoint):
                    raise
                endpoint.not_before = clock.monotonic() + _LEAVE_ALONE_SECONDS
                continue
            self._context = endpoint.engine.limits.context_tokens or self._context
            return
        raise self._not_ready()

    async def _check_external(self) -> None:
        """One server that answers is enough. Raises what the last one said."""
        problem: MistudioError | None = None
        for endpoint in self._endpoints.values():
            try:
                await endpoint.engine.check()
                self._context = endpoint.engine.limits.context_tokens or self._context
                return
            except MistudioError as error:
                endpoint.not_before = clock.monotonic() + _LEAVE_ALONE_SECONDS
                problem = error
        if problem is not None:
            raise problem

    def _not_ready(self) -> Unavailable:
        records = [r for r in read_records(self._home) if r.engine == self.name]
        said = next((r.message for r in records if r.state == FAILED), "") or next((r.message for r in records), "")
        why = f": {said}" if said else " and nothing starts it; is miStudio up?"
        what = f"is not ready{why}".rstrip(".")
        return failures.unavailable(self.name, f"{what}. See `mistudio engines list`")

    async def chat(self, request: ChatRequest) -> Reply | Failure:
        """See Engine; waits inside its deadline while no process is ready but one starts."""
        began = clock.monotonic()
        endpoint = await self._pick(began + self._settings.total_seconds)
        if endpoint is None:
            return failures.failure(self.name, "unreachable", "has no process that is ready", began)
        endpoint.outstanding += 1
        try:
            return await self._judged(endpoint, await endpoint.engine.chat(request))
        finally:
            endpoint.outstanding -= 1

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | Reply | Failure]:
        """See Engine."""
        began = clock.monotonic()
        endpoint = await self._pick(began + self._settings.total_seconds)
        if endpoint is None:
            yield failures.failure(self.name, "unreachable", "has no process that is ready", began)
            return
        endpoint.outstanding += 1
        try:
            async for piece in endpoint.engine.stream(request):
                yield piece if isinstance(piece, str) else await self._judged(endpoint, piece)
        finally:
            endpoint.outstanding -= 1

    async def _judged(self, endpoint: _Endpoint, outcome: Reply | Failure) -> Reply | Failure:
        """Leaves a broken endpoint alone; what it broke off because its process ended can be asked elsewhere."""
        if not isinstance(outcome, Failure):
            endpoint.served += 1
            return outcome
        if outcome.kind in _BROKEN and not outcome.final:
            endpoint.not_before = clock.monotonic() + _LEAVE_ALONE_SECONDS
            where = endpoint.record.device if endpoint.record else endpoint.url
            if await self._gone(endpoint):
                message = f"The engine {self.name!r} broke off on {where}."
                return replace(outcome, kind="unreachable", message=message)
        return outcome

    async def _gone(self, endpoint: _Endpoint) -> bool:
        """Whether its process has ended; a killed one closes its connections a moment before. True for a server."""
        for _ in range(_LOOKS):
            if endpoint.record is None or not endpoint.record.process.alive:
                return True
            await asyncio.sleep(_LOOK_SECONDS / 4)
        return False

    async def _pick(self, deadline: float) -> _Endpoint | None:
        """The usable endpoint with the fewest outstanding; None where there is none in time."""
        while True:
            self._look()
            usable = [e for e in self._endpoints.values() if e.usable]
            if usable:
                return min(usable, key=lambda e: (e.outstanding, e.served))
            if clock.monotonic() >= deadline or not self._hopeful():
                return None
            await asyncio.sleep(_LOOK_SECONDS)

    def _hopeful(self) -> bool:
        """Whether an endpoint may come: one that was left alone, or a process that starts or is wished for."""
        if not self._settings.managed:
            return bool(self._endpoints)
        records = [r for r in read_records(self._home) if r.engine == self.name]
        if any(r.held for r in records) or (records and all(r.state == FAILED for r in records)):
            return False
        now = clock.monotonic()
        if now - self._wished > 1.0:
            self._wished = now
            wish(self._home, self.name, self.model)
        return not wish_ignored(self._home, self.name)

    def _look(self) -> None:
        """Reads the file of the pool where it has changed: new processes come, ended ones go."""
        if not self._settings.managed:
            return
        try:
            stamp = state_file(self._home).stat().st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        if stamp == self._seen:
            return
        self._seen = stamp
        ready: dict[str, EngineRecord] = {}
        for record in read_records(self._home):
            if (record.engine, record.model, record.state) == (self.name, self.model, READY):
                ready[f"http://127.0.0.1:{record.port}/v1 {record.pid} {record.process_start}"] = record
        for name in self._endpoints.keys() - ready.keys():
            self._left.append(self._endpoints.pop(name))  # requests may still be under way there
        for name in ready.keys() - self._endpoints.keys():
            key = read_key(self._home, ready[name].key_file)
            self._endpoints[name] = self._endpoint(name.split(" ")[0], ready[name], key)

    async def models(self) -> list[ModelInfo]:
        """See Engine: what managed processes serve, and what is on this machine; or what external servers say."""
        if not self._settings.managed:
            found = {m.name: m for e in self._endpoints.values() for m in await e.engine.models()}
            return [found[name] for name in sorted(found)]
        serving = {r.model for r in read_records(self._home) if r.engine == self.name and r.state == READY}
        names = {*serving, *await asyncio.to_thread(list_models, self._home), *filter(None, [self._settings.model])}
        return [ModelInfo(name=n, loaded=n in serving) for n in sorted(names)]

    async def load(self, model: str) -> AsyncIterator[Progress]:
        """See Engine: the service loads models of managed engines, where their processes are."""
        raise self._elsewhere("loading", model)
        yield Progress(activity="")

    async def unload(self, model: str) -> None:
        """See Engine."""
        raise self._elsewhere("unloading", model)

    def _elsewhere(self, what: str, model: str) -> Unsupported:
        verb = "load" if what == "loading" else "unload"
        there = (
            f"Run `mistudio engines {verb} {self.name} {model}`." if self._settings.managed else "Restart the server."
        )
        return Unsupported(
            f"{what} a model of engine {self.name!r} here", why="its processes run elsewhere", instead=there
        )

    def counter(self) -> Count | None:
        """How the model counts tokens, from its files; None where they are not on this machine."""
        if self._settings.managed and not self._searched:
            self._searched = True
            with suppress(MistudioError):
                self._folder = find_model(self._home, self._settings, self.model)
        return file_counter(self._folder / "tokenizer.json") if self._folder else None

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text as the model counts them; None where no endpoint says."""
        self._look()
        endpoint = next((e for e in self._endpoints.values() if e.usable), None)
        if endpoint is None:
            return None
        key = read_key(self._home, endpoint.record.key_file) if endpoint.record else self._key
        root = endpoint.url.split(" ")[0].removesuffix("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key.reveal()}"} if key else {}
        try:
            response = await self._http.post(
                f"{root}/tokenize",
                json={"model": self.model, "prompt": text, "add_special_tokens": False},
                headers=headers,
            )
            count = json.loads(response.content)["count"] if response.status_code == 200 else None
        except CAUGHT:
            return None
        return count if isinstance(count, int) and count >= 0 else None
