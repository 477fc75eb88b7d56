"""OpenAI's own service, through the official SDK; used only where the engines file has a table for it.

Owns what its service takes otherwise than compatible servers: the name of the token limit, the
parts of a JSON schema that strict answers allow.
"""

from __future__ import annotations

from typing import Any

from mistudio_explain.engines.base import ChatRequest
from mistudio_explain.engines.openai_compatible import OpenAICompatibleEngine
from mistudio_explain.engines.schemas import plain_schema


class OpenAIEngine(OpenAICompatibleEngine):
    """Asks api.openai.com."""

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        body = super()._parameters(request)
        body["max_completion_tokens"] = body.pop("max_tokens")
        body["store"] = False
        if request.schema is not None:
            body["response_format"]["json_schema"]["schema"] = plain_schema(request.schema)
        return body
