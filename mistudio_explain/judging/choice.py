"""Makes the judge that is asked for: the one place that knows every method."""

from __future__ import annotations

from pathlib import Path

from mistudio_core.errors import Unsupported
from mistudio_explain.engines.base import Engine
from mistudio_explain.engines.table import LEXICAL
from mistudio_explain.judging.base import Judge
from mistudio_explain.judging.lexical import LexicalJudge

EMBEDDING = "embedding"
"""Name of the judge that needs a local model; lexical needs none, every other name is an engine's."""


def judge_name(asked: str, configured: str = "") -> str:
    """`asked`, else what the administrator configured, else lexical."""
    return asked or configured or LEXICAL


def create_judge(name: str, *, engine: Engine | None = None, model: str = "", model_root: Path | None = None) -> Judge:
    """The judge of this name: `engine` is the one that it names, `model` the local model that embeds.

    Raises Unsupported or NotFound where what it needs is missing; nothing is loaded before `check`.
    """
    if name == LEXICAL:
        return LexicalJudge()
    if name == EMBEDDING:
        from mistudio_explain.judging.embedding import EmbeddingJudge, local_embedder

        return EmbeddingJudge(model, local_embedder(model, model_root))
    if engine is None:
        raise Unsupported(
            f"the judge {name!r}", why="no engine of that name is at hand", instead="Set judge_engine to lexical."
        )
    from mistudio_explain.judging.model import ModelJudge

    return ModelJudge(engine)
