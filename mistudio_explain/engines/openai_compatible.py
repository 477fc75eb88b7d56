"""An engine behind any OpenAI-compatible URL (vLLM, Ollama, llama.cpp ...), through the official SDK.

Owns deadlines, retries, the size cap and the reading of the answer: every way to misbehave becomes
a typed Failure. No proxy, no redirect, no tools; the key is never part of a message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_random_exponential

from mistudio_core import clock
from mistudio_core.errors import Unavailable
from mistudio_core.secret import Secret
from mistudio_explain.engines.base import Draft, Failure, FailureKind
from mistudio_explain.engines.settings import EngineSettings
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.prompting import ANSWER_SCHEMA, PROMPT_VERSION, build_prompt

_RETRIED: tuple[FailureKind, ...] = ("unreachable", "server_error", "cut_off")
_LONGEST_EXPLANATION, _LONGEST_KEYWORD, _MOST_KEYWORDS = 2000, 60, 10
_LONGEST_WAIT_S = 8.0


class _TooLarge(Exception):
    """The answer is over its cap."""


class _CappedStream(httpx2.AsyncByteStream):
    """A response body that ends with _TooLarge behind its cap: an endless line would fill the memory."""

    def __init__(self, stream: httpx2.AsyncByteStream, cap: int) -> None:
        self._stream, self._left = stream, cap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._stream:
            self._left -= len(block)
            if self._left < 0:
                raise _TooLarge
            yield block

    async def aclose(self) -> None:
        await self._stream.aclose()


class _CappedTransport(httpx2.AsyncHTTPTransport):
    """Caps every response body."""

    def __init__(self, cap: int) -> None:
        super().__init__(trust_env=False)
        self._cap = cap

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _CappedStream(response.stream, self._cap)
        return response


class OpenAICompatibleEngine:
    """Asks a chat completion endpoint, streamed, for a JSON answer."""

    kind = "openai_compatible"

    def __init__(self, settings: EngineSettings, *, model: str, api_key: Secret) -> None:
        """Connects on first use; `api_key` may be empty."""
        self.name = settings.name
        self.model = model
        self._settings = settings
        timeout = httpx2.Timeout(settings.first_byte_seconds, connect=settings.connect_seconds)
        http = httpx2.AsyncClient(
            transport=_CappedTransport(settings.max_response_bytes),
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
        )
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=api_key.reveal() or "none",
            organization="",
            project="",
            max_retries=0,
            timeout=timeout,
            http_client=http,
        )

    async def close(self) -> None:
        """See Engine."""
        await self._client.close()

    async def check(self) -> None:
        """See Engine: lists the models; any answer but a refused key counts as being there."""
        problem = ""
        try:
            async with asyncio.timeout(self._settings.connect_seconds + self._settings.first_byte_seconds):
                await self._client.models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            problem = "refuses the key. Put a valid one into the file that api_key_file names"
        except (openai.APIConnectionError, TimeoutError, OSError):
            problem = f"does not answer at {self._settings.base_url}. Start it, or correct base_url in the engines file"
        except (openai.OpenAIError, _TooLarge, ValueError):
            return
        if problem:
            raise Unavailable(
                f"Explanation engine {self.name!r} {problem}; or use engine lexical, or set allow_lexical_fallback.",
                reason="ENGINE_UNAVAILABLE",
                facts={"engine": self.name},
            )

    async def explain(self, evidence: FeatureEvidence, *, seed: int) -> Draft | Failure:
        """See Engine."""
        began = clock.monotonic()
        prompt = build_prompt(evidence, seed=seed)
        last = self._failure("timeout", f"gave no answer within {self._settings.total_seconds:g} s", began)

        def remember(state: RetryCallState) -> None:
            nonlocal last
            outcome = state.outcome.result() if state.outcome else None
            last = outcome if isinstance(outcome, Failure) else last

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._settings.attempts),
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S),
            retry=retry_if_result(lambda r: isinstance(r, Failure) and r.kind in _RETRIED),
            before_sleep=remember,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else last,
        )
        try:
            async with asyncio.timeout(self._settings.total_seconds):
                outcome: Draft | Failure = await retrying(self._attempt, prompt, seed, began)
                return outcome
        except TimeoutError:
            return last

    async def _attempt(self, prompt: str, seed: int, began: float) -> Draft | Failure:
        """One request; all that the SDK raises becomes a Failure."""
        try:
            return await self._ask(prompt, seed, began)
        except (
            _TooLarge,
            openai.OpenAIError,
            httpx2.HTTPError,
            httpx2.StreamError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            return self._failure(*_classify(error), began)

    async def _ask(self, prompt: str, seed: int, began: float) -> Draft | Failure:
        stream: Any = await self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            seed=seed,
            max_tokens=self._settings.max_output_tokens,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "explanation", "schema": ANSWER_SCHEMA, "strict": True},
            },
        )
        pieces: list[str] = []
        finish, usage = "", None
        async with stream:
            async for chunk in stream:
                usage = chunk.usage or usage
                for choice in (chunk.choices or [])[:1]:
                    pieces.append(choice.delta.content or "")
                    finish = choice.finish_reason or finish
        if finish != "stop":
            why = "ran into its token limit" if finish == "length" else "broke off its answer"
            return self._failure("cut_off", why, began)
        return self._read("".join(pieces), usage, began)

    def _read(self, answer: str, usage: Any, began: float) -> Draft | Failure:
        """The answer as a Draft; what is no JSON or of another form is a Failure."""
        try:
            body = json.loads(answer)
        except ValueError:
            return self._failure("not_json", "answered with something that is not JSON", began)
        explanation = body.get("explanation") if isinstance(body, dict) else None
        keywords = body.get("keywords") if isinstance(body, dict) else None
        valid = (
            isinstance(explanation, str) and isinstance(keywords, list) and all(isinstance(k, str) for k in keywords)
        )
        text = " ".join(_clean(explanation).split()) if isinstance(explanation, str) else ""
        if not valid or not text or not isinstance(keywords, list) or len(text) > _LONGEST_EXPLANATION:
            return self._failure("wrong_schema", "answered with JSON of another form", began)
        return Draft(
            explanation=text,
            keywords=tuple(_clean(k)[:_LONGEST_KEYWORD] for k in keywords[:_MOST_KEYWORDS]),
            engine=self.name,
            model=self.model,
            prompt_version=PROMPT_VERSION,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            latency_seconds=clock.monotonic() - began,
        )

    def _failure(self, kind: FailureKind, what: str, began: float) -> Failure:
        return Failure(
            kind=kind, message=f"The engine {self.name!r} {what}.", latency_seconds=clock.monotonic() - began
        )


def _classify(error: Exception) -> tuple[FailureKind, str]:
    """What went wrong, without the server's own words: first match, from special to general."""
    causes = (error, error.__cause__)
    if any(isinstance(e, _TooLarge) for e in causes):
        return "too_large", "answered with more bytes than are read"
    if any(isinstance(e, httpx2.ConnectTimeout) for e in causes):
        return "unreachable", "could not be reached"
    if isinstance(error, openai.APIStatusError):
        temporary = error.status_code >= 500 or error.status_code == 429
        return ("server_error" if temporary else "refused"), f"answered with HTTP {error.status_code}"
    table: tuple[tuple[type[Exception], FailureKind, str], ...] = (
        (openai.APITimeoutError, "timeout", "did not answer in time"),
        (httpx2.TimeoutException, "timeout", "did not answer in time"),
        (openai.APIConnectionError, "unreachable", "could not be reached"),
        (httpx2.HTTPError, "cut_off", "broke off its answer"),
        (httpx2.StreamError, "cut_off", "broke off its answer"),
        (openai.APIError, "server_error", "reported an error instead of an answer"),
    )
    for kind, name, what in table:
        if isinstance(error, kind):
            return name, what
    return "not_json", "sent something that is no chat completion"


def _clean(text: str) -> str:
    """Valid Unicode: JSON can smuggle lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(usage: Any, name: str) -> int:
    value = getattr(usage, name, 0)
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0
