"""Chats as text: rendered through the model's own chat template, the same today and after a resume.

Templates run in the sandbox of transformers. Owns no tokens: what comes out is tokenised like any text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from mistudio_core.corpus.documents import Document
from mistudio_core.errors import InvalidInput, Unsupported

_TODAY = {
    "%d": "01", "%-d": "1", "%e": " 1", "%m": "01", "%-m": "1", "%b": "Jan", "%B": "January", "%Y": "2024", "%y": "24",
    "%a": "Mon", "%A": "Monday", "%j": "001", "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM",
    "%F": "2024-01-01", "%D": "01/01/24", "%T": "00:00:00", "%Z": "UTC", "%z": "+0000",
}  # fmt: skip
"""The day that templates print: a run that is resumed on another day reads the same text."""


def chat_renderer(tokenizer: Any, bos_id: int | None) -> Callable[[Document], str]:
    """A function from documents to their text; texts stay as they are, chats go through the template.

    `bos_id` as in LoadedLM. A beginning-of-sequence token that the template writes is left out where
    tokenising adds one. The function raises Unsupported for a chat where the tokenizer has no template,
    and InvalidInput (CORPUS_RECORD_INVALID) for one that the template refuses.
    """
    begin = tokenizer.bos_token if bos_id is not None or _adds_begin(tokenizer) else None
    template = cache(lambda: _template(tokenizer))

    def render(document: Document) -> str:
        if not document.messages:
            return document.text
        text = _rendered(tokenizer, template(), document)
        return text.removeprefix(begin) if begin else text

    return render


def _adds_begin(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _template(tokenizer: Any) -> str:
    """The tokenizer's template, with a clock that stands still."""
    try:
        template = str(tokenizer.get_chat_template())
    except (AttributeError, ValueError) as error:
        raise Unsupported(
            "a corpus of chats with this model",
            why="its tokenizer has no chat template",
            instead="Use the instruction-tuned variant of the model, or upload the chats as text (text_column).",
        ) from error
    if "strftime_now" not in template:
        return template
    steps = "".join(f" | replace('{code}', '{value}')" for code, value in _TODAY.items())
    # the newline is the one that a block's end swallows: the template begins at a line's start, as it did
    return f"{{% macro strftime_now(format) %}}{{{{ format{steps} }}}}{{% endmacro %}}\n{template}"


def _rendered(tokenizer: Any, template: str, document: Document) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in document.messages],
            chat_template=template,
            tokenize=False,
            date_string="01 Jan 2024",
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        roles = ", ".join(role for role, _ in document.messages[:6])
        raise InvalidInput(
            f"The model's chat template refuses a chat with the roles {roles}: {str(error)[:200].rstrip('.')}. "
            "Correct the chat and upload the corpus again, or use another model.",
            reason="CORPUS_RECORD_INVALID",
            facts={"roles": roles, "why": str(error)[:200]},
        ) from error
    return str(text)
