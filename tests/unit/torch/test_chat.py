"""Chats through a model's template: what comes out, once and on every day, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mistudio_core.corpus.documents import Document
from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.chat import chat_renderer
from tests.support import tinymodels

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} [SEP]{% endfor %}"
)
CHAT = Document(messages=(("user", "the cat"), ("assistant", "sat on the mat")))


def tokenizer(folder: Path, template: str | None, *, special: bool = False):
    tinymodels.tokenizer(folder, special=special)
    made = AutoTokenizer.from_pretrained(folder)
    made.chat_template = template
    return made


def test_a_text_stays_as_it_is(tmp_path: Path):
    assert chat_renderer(tokenizer(tmp_path, None), 2)(Document(text=" the cat ")) == " the cat "


@pytest.mark.parametrize(("bos_id", "special", "head"), [(2, False, ""), (None, False, "[CLS]"), (None, True, "")])
def test_the_first_token_is_written_once(tmp_path: Path, bos_id: int | None, special: bool, head: str):
    render = chat_renderer(tokenizer(tmp_path, TEMPLATE, special=special), bos_id)
    assert render(CHAT) == head + "<user> the cat [SEP]<assistant> sat on the mat [SEP]"


@pytest.mark.parametrize("template", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"])
def test_no_text_depends_on_the_day(tmp_path: Path, template: str):
    assert chat_renderer(tokenizer(tmp_path, template), None)(CHAT) == "01 Jan 2024"


def test_without_a_template_a_chat_is_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match="no chat template"):
        chat_renderer(tokenizer(tmp_path, None), None)(CHAT)


@pytest.mark.parametrize("template", [TEMPLATE, "{{ messages[9].content.x }}", "{% broken"])
def test_a_chat_that_the_template_refuses_names_its_roles(tmp_path: Path, template: str):
    render = chat_renderer(tokenizer(tmp_path, template), None)
    with pytest.raises(InvalidInput, match="roles tool, user") as caught:
        render(Document(messages=(("tool", "x"), ("user", "y"))))
    assert caught.value.reason == "CORPUS_RECORD_INVALID"
