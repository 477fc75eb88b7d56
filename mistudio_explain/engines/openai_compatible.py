"""An engine behind any OpenAI-compatible URL (vLLM, llama.cpp, gateways ...), through the official SDK.

Owns the form of requests and answers. Answers are read as they come, without the SDK's models of
them, which would cost more time than the rest. No tools; the key is never part of a message.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import httpx2
import openai

from mistudio_core.errors import MistudioError, Unavailable
from mistudio_core.secret import Secret
from mistudio_explain.engines import failures, sse
from mistudio_explain.engines.base import ChatRequest, Failure, ModelInfo
from mistudio_explain.engines.chatting import CAUGHT, Answer, ChattingEngine, count
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.engines.transport import http_client

__all__ = ["CAUGHT", "OpenAICompatibleEngine"]


class OpenAICompatibleEngine(ChattingEngine):
    """Asks a chat completion endpoint."""

    caught = (openai.OpenAIError, *CAUGHT)
    optional: ClassVar[tuple[str, ...]] = ("seed", "temperature", "stream_options")

    def __init__(self, settings: EngineSettings, *, model: str, api_key: Secret) -> None:
        """Connects on first use; `api_key` may be empty."""
        super().__init__(settings, model)
        silence = settings.first_byte_seconds if settings.streaming else settings.total_seconds
        self._client = openai.AsyncOpenAI(
            base_url=settings.url,
            api_key=api_key.reveal() or "none",
            organization="",
            project="",
            max_retries=0,
            http_client=http_client(settings),
            timeout=httpx2.Timeout(silence, connect=settings.connect_seconds, pool=settings.total_seconds),
        )

    async def close(self) -> None:
        """See Engine."""
        await self._client.close()

    async def check(self) -> None:
        """See Engine: a model that is not listed is asked for a word, since some servers list others than they take."""
        problem: Unavailable | None = None
        there: list[str] = []
        try:
            there = [m.name for m in await self.models()]
        except Unavailable as error:
            if error.facts.get("kind") in ("unreachable", "timeout", failures.KEY):
                raise
            problem = error
        if self.model in there:
            return
        if self._settings.costs_money:
            raise problem or self._missing(there)
        found = await self.chat(ChatRequest(prompt="Say yes.", max_output_tokens=16))
        if isinstance(found, Failure) and found.kind != "cut_off":
            if there and found.kind in ("model_missing", "refused"):
                raise self._missing(there)
            raise problem or failures.check_problem(self.name, self._settings.url, found)

    def _missing(self, there: list[str]) -> MistudioError:
        how = "Correct model in the engines file, or name one of these."
        return failures.model_missing(self.name, self.model, there, how)

    async def _list(self) -> list[ModelInfo]:
        response = await self._client.get("/models", cast_to=httpx2.Response)
        found = []
        for entry in json.loads(response.content)["data"]:
            tokens = count(entry, "max_model_len") or count(entry, "context_length")
            # A server of one model has it loaded; what a gateway in front of several does, it does not say.
            found.append(ModelInfo(name=str(entry["id"]), loaded=self.kind == "vllm", context_tokens=tokens))
            if entry["id"] == self.model:
                self._context = self._settings.context_tokens or tokens
        return found

    async def _pieces(self, request: ChatRequest) -> AsyncIterator[str | Answer]:
        body = self._parameters(request) | {"stream": True, "stream_options": {"include_usage": True}}
        if "stream_options" in self._left_out:
            del body["stream_options"]
        asking = self._client.chat.completions.with_streaming_response.create(
            model=self.model, messages=(), stream=True, extra_body=body
        )
        pieces: list[str] = []
        finish: object = None
        usage: object = None
        async with asking as response:
            async for event in sse.events(response.http_response):
                if "error" in event:
                    raise failures.Oddity("server_error", "reported an error instead of an answer")
                usage = event.get("usage") or usage
                for choice in event.get("choices", ())[:1]:
                    finish = choice.get("finish_reason") or finish
                    text = choice["delta"].get("content")
                    if text:
                        pieces.append(text)
                        yield text
        yield self._answer("".join(pieces), finish, usage)

    async def _whole(self, request: ChatRequest) -> Answer:
        # Past the SDK's model of the request, which it would look through part by part.
        response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=self._parameters(request))
        answer = sse.parsed(response.content)
        choice = answer["choices"][0]
        return self._answer(choice["message"].get("content") or "", choice.get("finish_reason"), answer.get("usage"))

    def _answer(self, text: str, finish: object, usage: object) -> Answer:
        return Answer(
            text=text,
            finish=finish,
            prompt_tokens=count(usage, "prompt_tokens"),
            completion_tokens=count(usage, "completion_tokens"),
        )

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        """The body of a request, less streaming."""
        messages = [{"role": "system", "content": request.system}] if request.system else []
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*messages, {"role": "user", "content": request.prompt}],
            "temperature": request.temperature,
            "seed": request.seed,
            "max_tokens": request.max_output_tokens,
        }
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {key: value for key, value in body.items() if key not in self._left_out}
