"""An Ollama server, by its name in the cluster or by address, through its own HTTP API.

Owns chat, models, pulling with progress, loading and unloading. Spoken to directly: its Python
package uses another HTTP client, whose deadlines, caps and addresses could not be the common ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx2

from mistudio_core import clock
from mistudio_core.errors import MistudioError
from mistudio_core.secret import Secret
from mistudio_explain.engines import failures, sse
from mistudio_explain.engines.base import ChatRequest, Failure, ModelInfo, Progress
from mistudio_explain.engines.chatting import Answer, ChattingEngine, count
from mistudio_explain.engines.ollama_settings import OllamaSettings
from mistudio_explain.engines.transport import http_client

_MOST_CONTEXT = 8192
_PULL_BYTES = 256 * 1024**2
_LATEST = ":latest"


class OllamaEngine(ChattingEngine):
    """Asks an Ollama server."""

    optional: ClassVar[tuple[str, ...]] = ("think",)

    def __init__(self, settings: OllamaSettings, *, model: str, api_key: Secret) -> None:
        """Connects on first use; `api_key` is for a gateway in front of it and may be empty."""
        super().__init__(settings, _full(model))
        self._ollama = settings
        headers = {"Authorization": f"Bearer {api_key.reveal()}"} if api_key else {}
        self._client = http_client(settings, base_url=settings.url)
        # What a pull tells in hours is longer than any answer, and it may be silent while it checks.
        self._patient = http_client(
            settings, base_url=settings.url, silence_seconds=settings.load_seconds, most_bytes=_PULL_BYTES
        )
        for client in (self._client, self._patient):
            client.headers.update(headers)

    async def close(self) -> None:
        """See Engine."""
        await self._client.aclose()
        await self._patient.aclose()

    async def check(self) -> None:
        """See Engine; finds out the model's context."""
        there = [m.name for m in await self.models()]
        if not self.model:
            return
        if self.model not in there:
            how = f"Pull it: mistudio engines load {self.name} --model {self.model}."
            raise failures.model_missing(self.name, self.model, there, how)
        await self._find_context()

    async def _find_context(self) -> None:
        """The tokens that answers may have, from the model's own length, unless the settings say."""
        if self._context:
            return
        began = clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.connect_seconds + self._settings.first_byte_seconds):
                shown = await self._post("/api/show", {"model": self.model})
        except self.caught as error:
            found = failures.failure_of(self.name, error, began)
            raise failures.check_problem(self.name, self._settings.url, found) from None
        facts = shown.get("model_info")
        lengths = [count(facts, key) for key in facts if key.endswith(".context_length")] if facts else []
        self._context = min([n for n in lengths if n > 0] + [_MOST_CONTEXT])

    async def _list(self) -> list[ModelInfo]:
        tags, running = await self._get("/api/tags"), await self._get("/api/ps")
        loaded = {m["name"]: count(m, "context_length") for m in running["models"]}
        return [
            ModelInfo(
                name=m["name"],
                loaded=m["name"] in loaded,
                size_bytes=m["size"] if isinstance(m.get("size"), int) else 0,
                context_tokens=loaded.get(m["name"], 0),
            )
            for m in tags["models"]
        ]

    async def load(self, model: str) -> AsyncIterator[Progress]:
        """See Engine: pulls the model where it is missing. Raises Unavailable, NotFound (MODEL_NOT_FOUND)."""
        model = _full(model or self.model)
        there = [m.name for m in await self.models()]
        began = clock.monotonic()
        try:
            if model not in there:
                async for progress in self._pull(model):
                    yield progress
            yield Progress(activity="loading")
            async with asyncio.timeout(self._ollama.load_seconds):
                await self._post("/api/generate", {"model": model, "keep_alive": self._keep_alive}, patient=True)
        except self.caught as error:
            raise self._load_problem(failures.failure_of(self.name, error, began), model, there) from None

    async def _pull(self, model: str) -> AsyncIterator[Progress]:
        async with self._asked(self._patient, "/api/pull", {"model": model, "stream": True}) as response:
            status = ""
            async for line in sse.json_lines(response):
                if "error" in line:
                    raise failures.Oddity("model_missing", "cannot pull it")
                status = str(line.get("status", ""))[:100]
                total = line.get("total") if isinstance(line.get("total"), int) else 0
                done = line.get("completed") if isinstance(line.get("completed"), int) else 0
                yield Progress(activity="pulling" if total else status, done_bytes=done or 0, total_bytes=total or 0)
            if status != "success":
                raise failures.Oddity("cut_off", "broke off the pull")

    def _load_problem(self, found: Failure, model: str, there: list[str]) -> MistudioError:
        if found.kind in ("model_missing", "refused") and not failures.is_key_refused(found):
            how = "It cannot be pulled either: see https://ollama.com/library for names, or import it there first."
            return failures.model_missing(self.name, model, there, how)
        return failures.check_problem(self.name, self._settings.url, found)

    async def unload(self, model: str) -> None:
        """See Engine."""
        began = clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.total_seconds):
                await self._post("/api/generate", {"model": _full(model or self.model), "keep_alive": 0}, patient=True)
        except self.caught as error:
            found = failures.failure_of(self.name, error, began)
            if found.kind != "model_missing":
                raise failures.check_problem(self.name, self._settings.url, found) from None

    @property
    def _keep_alive(self) -> str:
        return f"{self._ollama.keep_alive_minutes:g}m"

    async def _pieces(self, request: ChatRequest) -> AsyncIterator[str | Answer]:
        pieces: list[str] = []
        async with self._asked(self._client, "/api/chat", self._parameters(request, stream=True)) as response:
            async for line in sse.json_lines(response, "done"):
                if "error" in line:
                    raise _reported(line)
                text = line["message"].get("content") if "message" in line else ""
                if text:
                    pieces.append(text)
                    yield text
                if line.get("done"):
                    yield _answer("".join(pieces), line)
                    return

    async def _whole(self, request: ChatRequest) -> Answer:
        body = await self._post("/api/chat", self._parameters(request, stream=False), silence=True)
        return _answer(body["message"].get("content") or "", body)

    def _parameters(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        messages = [{"role": "system", "content": request.system}] if request.system else []
        options: dict[str, Any] = {
            "seed": request.seed,
            "temperature": request.temperature,
            "num_predict": request.max_output_tokens,
        }
        if self._context:
            options["num_ctx"] = self._context
        body = {
            "model": self.model,
            "messages": [*messages, {"role": "user", "content": request.prompt}],
            "stream": stream,
            "keep_alive": self._keep_alive,
            "options": options,
            # Neither a prompt that was cut without a word nor a context that was shifted explains what it was asked.
            "truncate": False,
            "shift": False,
            "think": False,
        }
        if request.schema is not None:
            body["format"] = request.schema
        return {key: value for key, value in body.items() if key not in self._left_out}

    async def _get(self, path: str) -> dict[str, Any]:
        response = await self._client.get(path)
        _raise_for(response, response.content)
        return sse.parsed(response.content)

    async def _post(
        self, path: str, body: dict[str, Any], *, patient: bool = False, silence: bool = False
    ) -> dict[str, Any]:
        client = self._patient if patient else self._client
        timeout = httpx2.Timeout(self._settings.total_seconds, connect=self._settings.connect_seconds)
        options: dict[str, Any] = {"timeout": timeout} if silence else {}
        response = await client.post(path, json={"stream": False, **body}, **options)
        _raise_for(response, response.content)
        found = sse.parsed(response.content)
        if "error" in found:
            raise _reported(found)
        return found

    @asynccontextmanager
    async def _asked(
        self, client: httpx2.AsyncClient, path: str, body: dict[str, Any]
    ) -> AsyncIterator[httpx2.Response]:
        async with client.stream("POST", path, json=body) as response:
            if response.status_code != httpx2.codes.OK:
                _raise_for(response, await response.aread())
            if "json" not in response.headers.get("content-type", ""):
                raise failures.Oddity("not_json", "sent something that is no stream of JSON")
            yield response


def _full(model: str) -> str:
    """The name with its tag, as the server lists it."""
    return model if not model or ":" in model.rpartition("/")[2] else model + _LATEST


def _answer(text: str, line: dict[str, Any]) -> Answer:
    return Answer(
        text=text,
        # Servers before 0.1.38 give no reason; `load` comes back where there was nothing to answer.
        finish=line.get("done_reason") or ("stop" if line.get("done") else None),
        prompt_tokens=count(line, "prompt_eval_count"),
        completion_tokens=count(line, "eval_count"),
    )


def _raise_for(response: httpx2.Response, body: bytes) -> None:
    if response.status_code != httpx2.codes.OK:
        raise failures.BadStatus(response, body)


def _reported(line: dict[str, Any]) -> failures.Oddity:
    """An error inside of an answer that began well."""
    text = json.dumps(line["error"])[:2000].casefold()
    if failures.is_about_context(text):
        return failures.Oddity("context_too_small", "says that the prompt does not fit its context")
    return failures.Oddity("server_error", "reported an error instead of an answer")
