"""Makes engines from their settings: the one place that knows every kind."""

from __future__ import annotations

from pathlib import Path

from mistudio_core.errors import Unavailable
from mistudio_core.secret import Secret, read_sealed
from mistudio_explain.engines.base import Engine
from mistudio_explain.engines.lexical import LexicalEngine
from mistudio_explain.engines.settings import LEXICAL, EngineSettings


def create_engine(settings: EngineSettings, *, model: str = "") -> Engine:
    """An engine ready to explain; imports its client only now. Raises Unavailable where its key is missing."""
    if settings.kind == LEXICAL:
        return LexicalEngine()
    from mistudio_explain.engines.openai_compatible import OpenAICompatibleEngine

    return OpenAICompatibleEngine(settings, model=model or settings.model, api_key=_api_key(settings))


def _api_key(settings: EngineSettings) -> Secret:
    if not settings.api_key_file:
        return Secret("")
    key = read_sealed(Path(settings.api_key_file))
    if not key:
        raise Unavailable(
            f"The key of engine {settings.name!r} is missing. Put it into the file that api_key_file names.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name},
        )
    return key
