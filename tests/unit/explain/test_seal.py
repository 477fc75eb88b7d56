"""Sealed documents: whole ones are, every change shows."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from mistudio_core.errors import InvalidInput
from mistudio_core.seal import HOLDER, canonical, digest_of, sealed, verify
from mistudio_explain.reports import FORMS
from tests.support.explains import book_of, explanation

BOOK = book_of([explanation(i, flags=("Look: “ü” 中.",), safety_assessment="concerning") for i in range(3)])


@pytest.mark.parametrize("form", ["audit_json", "audit_html", "audit_pdf"])
def test_every_form_carries_one_digest_and_proves_it(form):
    verdict = verify(FORMS[form].render(BOOK))
    assert verdict.intact and verdict.form == form.removeprefix("audit_")
    assert verdict.found == digest_of(json.loads(FORMS["audit_json"].render(BOOK)))
    assert len(verdict.document["flagged"]) == 3


def test_the_digest_follows_the_content_alone():
    body = {"b": [1.5, "ü"], "a": {"z": 1, "y": None}}
    again = json.loads(json.dumps(sealed(body), indent=4))
    assert digest_of(again) == digest_of(body) == sealed(body)["digest"]["sha256"]
    assert canonical(body) == '{"a":{"y":null,"z":1},"b":[1.5,"ü"]}'.encode()
    changed = replace(BOOK, records=[{**BOOK.records[0], "explanation": "Other."}, *BOOK.records[1:]])
    assert verify(FORMS["audit_json"].render(changed)).found != verify(FORMS["audit_json"].render(BOOK)).found


def test_a_change_of_one_letter_shows():
    data = FORMS["audit_json"].render(BOOK)
    assert not verify(data.replace(b"concerning", b"concernin9", 1)).intact
    page = FORMS["audit_html"].render(BOOK)
    digest = verify(page).found.encode()
    assert not verify(page.replace(digest, b"0" * 64, 1)).intact
    held = page.split(f'<pre id="{HOLDER}">'.encode())[1].split(b"</pre>")[0]
    body = json.loads(base64.b64decode(b"".join(held.split())))
    body["flagged"] = []
    assert not verify(page.replace(held, base64.b64encode(canonical(body)))).intact


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"%PDF-1.7 nothing", b"<html></html>", b'{"digest": 3}', b"\xff\xfe\x00", b"{" * 9999]
)
def test_a_file_without_a_seal_is_refused(data):
    with pytest.raises(InvalidInput, match="seal"):
        verify(data)
