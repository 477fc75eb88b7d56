"""Anthropic's service, through the official SDK; used only where the engines file has a table for it.

Owns the form of requests and answers. Answers are read as they come. No tools; the key is never
part of a message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import anthropic
import httpx2

from mistudio_core.secret import Secret
from mistudio_explain.engines import failures, sse
from mistudio_explain.engines.base import ChatRequest, ModelInfo
from mistudio_explain.engines.chatting import CAUGHT, Answer, ChattingEngine, count
from mistudio_explain.engines.schemas import plain_schema
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.engines.transport import http_client

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicEngine(ChattingEngine):
    """Asks the messages endpoint."""

    caught = (anthropic.AnthropicError, *CAUGHT)
    whole, cut, filtered = frozenset(("end_turn",)), frozenset(("max_tokens",)), frozenset(("refusal",))
    # Thinking would take tokens of the short answer; some models always think and say so.
    optional: ClassVar[tuple[str, ...]] = ("thinking",)

    def __init__(self, settings: EngineSettings, *, model: str, api_key: Secret) -> None:
        """Connects on first use."""
        super().__init__(settings, model)
        silence = settings.first_byte_seconds if settings.streaming else settings.total_seconds
        self._client = anthropic.AsyncAnthropic(
            base_url=settings.url,
            api_key=api_key.reveal(),
            max_retries=0,
            http_client=http_client(settings),
            timeout=httpx2.Timeout(silence, connect=settings.connect_seconds, pool=settings.total_seconds),
            open_telemetry=False,
        )

    async def close(self) -> None:
        """See Engine."""
        await self._client.close()

    async def check(self) -> None:
        """See Engine."""
        there = [m.name for m in await self.models()]
        if self.model not in there:
            how = "Correct model in the engines file, or name one of these."
            raise failures.model_missing(self.name, self.model, there, how)

    async def _list(self) -> list[ModelInfo]:
        response = await self._client.get("/v1/models", cast_to=httpx2.Response, options={"params": {"limit": 1000}})
        body = sse.parsed(response.content)
        return [ModelInfo(name=str(e["id"]), context_tokens=count(e, "max_input_tokens")) for e in body["data"]]

    async def _pieces(self, request: ChatRequest) -> AsyncIterator[str | Answer]:
        body = self._parameters(request) | {"stream": True}
        asking = self._client.messages.with_streaming_response.create(**body)
        pieces: list[str] = []
        finish: object = None
        usage: dict[str, Any] = {}
        async with asking as response:
            async for event in sse.events(response.http_response, "message_stop"):
                kind = event.get("type")
                if kind == "content_block_delta" and event["delta"].get("type") == "text_delta":
                    pieces.append(event["delta"]["text"])
                    yield event["delta"]["text"]
                elif kind == "message_start":
                    usage |= event["message"].get("usage") or {}
                elif kind == "message_delta":
                    finish = event["delta"].get("stop_reason") or finish
                    usage |= event.get("usage") or {}
                elif kind == "error":
                    raise failures.Oddity(*_reported(event))
        yield _answer("".join(pieces), finish, usage)

    async def _whole(self, request: ChatRequest) -> Answer:
        raw = await self._client.messages.with_raw_response.create(**self._parameters(request))
        body = sse.parsed(raw.http_response.content)
        text = "".join(block["text"] for block in body["content"] if block.get("type") == "text")
        return _answer(text, body.get("stop_reason"), body.get("usage"))

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        """The body of a request, less streaming; its service takes neither seed nor temperature."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_output_tokens,
            "messages": [{"role": "user", "content": request.prompt}],
            "thinking": {"type": "disabled"},
        }
        if request.system:
            body["system"] = request.system
        if request.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": plain_schema(request.schema)}}
        return {key: value for key, value in body.items() if key not in self._left_out}


def _answer(text: str, finish: object, usage: object) -> Answer:
    return Answer(
        text=text,
        finish=finish,
        prompt_tokens=count(usage, *_INPUT),
        completion_tokens=count(usage, "output_tokens"),
    )


def _reported(event: dict[str, Any]) -> tuple[Any, str]:
    """What an error event inside of a stream is, by its type."""
    body = event.get("error")
    kind = body.get("type") if isinstance(body, dict) else ""
    if kind == "rate_limit_error":
        return "rate_limited", "is asked too often"
    return "server_error", "reported an error instead of an answer"
