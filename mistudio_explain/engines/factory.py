"""Makes engines and explainers from their settings: the one place that knows every kind.

Clients of providers are imported only when one is made; a key is read only then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mistudio_core.errors import Unavailable, Unsupported
from mistudio_core.secret import Secret, read_sealed
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import Engine
from mistudio_explain.engines.lexical import LexicalExplainer
from mistudio_explain.engines.ollama_settings import OllamaSettings
from mistudio_explain.engines.table import ANTHROPIC, LEXICAL, OLLAMA, OPENAI, VLLM, EngineSettings
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.explainer import Explainer
from mistudio_explain.few_shot import FewShot


def create_engine(settings: EngineSettings, *, model: str = "") -> Engine:
    """An engine ready to chat, of every kind but lexical.

    Raises Unavailable (ENGINE_UNAVAILABLE) where its key or its package is missing, Unsupported for lexical.
    """
    model = model or settings.model
    if settings.kind == LEXICAL:
        raise Unsupported("chatting with the lexical engine", why="it has no model", instead="Name another engine.")
    try:
        if settings.kind == VLLM:
            from mistudio_explain.engines.vllm import VllmEngine

            return VllmEngine(settings, model=model, api_key=_api_key(settings))
        if settings.kind == OLLAMA:
            from mistudio_explain.engines.ollama import OllamaEngine

            if not isinstance(settings, OllamaSettings):
                raise TypeError("settings of kind ollama are wanted")
            return OllamaEngine(settings, model=model, api_key=_api_key(settings))
        if settings.kind == ANTHROPIC:
            from mistudio_explain.engines.anthropic import AnthropicEngine

            return AnthropicEngine(settings, model=model, api_key=_api_key(settings))
        if settings.kind == OPENAI:
            from mistudio_explain.engines.openai import OpenAIEngine

            return OpenAIEngine(settings, model=model, api_key=_api_key(settings))
        from mistudio_explain.engines.openai_compatible import OpenAICompatibleEngine

        return OpenAICompatibleEngine(settings, model=model, api_key=_api_key(settings))
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"Engine {settings.name!r} needs the package {error.name}. Install it: pip install 'mistudio[explain]'.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name},
        ) from error


def create_explainer(
    settings: EngineSettings,
    config: ExplainConfig,
    *,
    engine: Engine | None = None,
    few_shot: FewShot | None = None,
    pair_of: Callable[[FeatureEvidence], FeatureEvidence | None] | None = None,
) -> Explainer:
    """An explainer for a run: with a model behind `engine` (made from the settings unless given), or from words.

    `pair_of` finds the similar feature that the strategy contrast_pair needs. Raises as create_engine does.
    """
    if settings.kind == LEXICAL:
        return LexicalExplainer()
    from mistudio_explain.chat_explainer import ChatExplainer

    engine = engine or create_engine(settings, model=config.model)
    return ChatExplainer(engine, config, few_shot=few_shot, pair_of=pair_of)


def _api_key(settings: EngineSettings) -> Secret:
    if not settings.api_key_file:
        return Secret("")
    try:
        key = read_sealed(Path(settings.api_key_file).expanduser())
    except (OSError, UnicodeDecodeError):
        key = None
    if not key:
        raise Unavailable(
            f"The key of engine {settings.name!r} is missing. Put it into the file that api_key_file names.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name},
        )
    return key
