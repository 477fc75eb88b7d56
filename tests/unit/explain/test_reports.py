"""The forms of a run: they say the same, nothing in them runs, and any text can be set."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pypdf
import pytest

from mistudio_core import clock
from mistudio_core.jobs.reviews import ReviewRecord
from mistudio_core.spreadsheet import cell_text
from mistudio_explain.book import Book, read_book, review_figures, with_review
from mistudio_explain.config import QualityParts, explanation_of
from mistudio_explain.reports import FORMS
from mistudio_explain.reports.csv_file import HEADER
from mistudio_explain.reports.typesetting import unshown
from mistudio_explain.table import ExplanationTable, write_table
from tests.support.explains import book_of, explanation
from tests.unit.explain.xss import vectors

VOID = {"meta", "br", "img", "input", "link", "hr"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav", "a", "main", "section"),
    *("div", "b", "span", "svg", "text", "rect", "line", "table", "tr", "th", "td", "article", "bdi", "i", "mark"),
    *("ul", "li", "dl", "dt", "dd", "details", "summary", "footer", "pre"),
}


class Dom(HTMLParser):
    """Tags, attributes and the text that people see."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.text.append(data)


def verdict(feature_id: int, **changes: Any) -> ReviewRecord:
    given = {"verdict": "approved", "correction": "", "reason": "", "author": "Ada", "reviewed_at": clock.now()}
    return ReviewRecord(job_id="explain_1", feature_id=feature_id, number=1, **(given | changes))


def reviewed(book: Book, *reviews: ReviewRecord) -> Book:
    latest = {r.feature_id: r for r in reviews}
    records = [with_review(record, latest.get(record["feature_id"])) for record in book.records]
    return replace(book, records=records, summary={**book.summary, **review_figures(records)}, reviews=reviews)


def hostile(vector: str) -> Book:
    """A run with one text in every field that holds text."""
    e = explanation(
        0,
        explanation=vector,
        explanation_keywords=(vector,),
        pattern_keywords=(vector,),
        safety_assessment="concerning",
        safety_reason=vector,
        engine=vector,
        model=vector,
        strategy=vector,
        prompt_version=vector,
        flags=(vector,),
        quality_parts=QualityParts(accuracy=0.5, accuracy_method=vector),
    )
    failed = explanation(1, failure=vector, explanation="")
    names = ("model", "find_job", "training_job", "safety_rules", "layer")
    odd = {"configuration": {vector: vector}, "find_configuration": {"x": vector}, "software": {vector: [vector]}}
    book = book_of([e, failed], vector, **dict.fromkeys(names, vector), **odd)
    evidence = {
        i: {**shown, "texts": [{**t, "context": vector} for t in shown["texts"]]} for i, shown in book.evidence.items()
    }
    more = dict.fromkeys(("correction", "reason", "author"), vector)
    return reviewed(replace(book, evidence=evidence), verdict(0, verdict="corrected", **more))


@pytest.mark.parametrize("form", ["html", "audit_html"])
def test_no_text_becomes_markup(form):
    for vector in vectors():
        page = FORMS[form].render(hostile(vector))
        dom = Dom(page)
        assert not dom.open
        assert set(dom.tags) <= ALLOWED, vector
        assert not [name for name, _ in dom.attributes if name.startswith("on") or name in ("style", "src")], vector
        links = [value for name, value in dom.attributes if name in ("href", "xlink:href", "action", "formaction")]
        assert all(re.fullmatch(r"#[a-z0-9-]+", link or "") for link in links), vector
        policy = next(v for n, v in dom.attributes if n == "content" and v and "default-src" in v)
        assert "default-src 'none'" in policy and "unsafe" not in policy
    assert len(vectors()) == 200


def test_the_page_shows_what_was_written():
    for vector in ("<script>alert(1)</script>", '" onclick="x', "{{ 7*7 }}"):
        assert "".join(Dom(FORMS["html"].render(hostile(vector))).text).count(vector) >= 5


def read_csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_all_forms_say_the_same(tmp_path):
    done = [explanation(i, explanation=f"Fires on number {i}, “quoted”; 中文.") for i in range(5)]
    failed = explanation(7, failure="No answer came.", explanation="", explanation_quality=0.0)
    book = reviewed(book_of([*done, failed]), verdict(2, verdict="corrected", correction="On 2.", reason="So."))
    path = tmp_path / "t.db"
    about = {"job_metadata": book.metadata, "summary_insights": book.summary, "technical": book.technical}
    plain = [{k: v for k, v in r.items() if k != "review"} for r in book.records]
    write_table(path, about, plain, book.evidence.items())
    again = read_book(ExplanationTable(path), book.reviews)
    made = {name: form.render(book) for name, form in FORMS.items() if not name.endswith("pdf")}
    assert made == {name: FORMS[name].render(again) for name in made}
    body = json.loads(made["json"])
    assert [explanation_of(r) for r in body["explanations"]] == [*done, failed]
    rows = read_csv(made["csv"])
    assert [int(r["feature_id"]) for r in rows] == [r["feature_id"] for r in body["explanations"]]
    text, page = made["txt"].decode(), "".join(Dom(made["html"]).text)
    audit = {f["feature_id"]: f for f in json.loads(made["audit_json"])["features"]}
    for record, row in zip(body["explanations"], rows, strict=True):
        assert float(row["explanation_quality"]) == record["explanation_quality"]
        assert float(row["accuracy"]) == record["quality_parts"]["accuracy"]
        assert row["explanation"] == record["explanation"] == audit[record["feature_id"]]["explanation"]
        for shown in (text, page):
            assert (record["explanation"] or record["failure"]) in shown
        if not record["failure"]:
            assert f"quality {record['explanation_quality']:.4f}" in text
    assert rows[2]["review_correction"] == "On 2." and "corrected by Ada" in text and "corrected by Ada" in page


def test_a_pdf_holds_every_explanation_as_text():
    book = reviewed(book_of([explanation(i) for i in range(6)]), verdict(3, reason="It holds."))
    for form in ("pdf", "audit_pdf"):
        reader = pypdf.PdfReader(io.BytesIO(FORMS[form].render(book)))
        text = " ".join(" ".join(p.extract_text() for p in reader.pages).split())
        for record in book.records:
            assert record["explanation"] in text
        assert "Reviewed: approved by Ada" in text and "It holds." in text


def test_a_pdf_can_be_made_of_any_text():
    rng = random.Random(0)
    anything = "".join(chr(c) for _ in range(1500) if not 0xD800 <= (c := rng.randrange(1, 0x110000)) < 0xE000)
    odd = "\x00\x1b[31m\u202e\ufffe\ufdd0\U0010ffff #x *y* _z_ $a$ @b <c> \\u{41} `raw` // /* = + - [ ] { }"
    for text in (anything, odd, "中文 日本語 한국어 عربي שלום हिन्दी ไทย 😀 👩‍👩‍👧", "\u0301" * 50, "a" * 4000):
        data = FORMS["pdf"].render(hostile(text))
        assert data.startswith(b"%PDF-")
    reader = pypdf.PdfReader(
        io.BytesIO(FORMS["pdf"].render(book_of([explanation(0, explanation="Ελλάς Кирилл ü 㐀.")])))
    )
    text = " ".join(p.extract_text() for p in reader.pages)
    assert "Ελλάς Кирилл ü" in text and "no sign in the fonts at hand" in text


def test_characters_without_a_sign_are_read_from_what_the_typesetter_says():
    said = 'error: the text `"中"` could not be displayed\nthe text `"\\u{e000}é"` could not'
    assert unshown(said) == {"中", "\ue000", "é"}


TRIGGERS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "＝1+1", " =1", '"=1', "'=1", ";=1")


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_csv_opens_without_a_formula(trigger):
    rows = list(csv.reader(io.StringIO(FORMS["csv"].render(hostile(trigger)).decode("utf-8-sig"), newline="")))
    assert rows[0] == list(HEADER)
    for name, cell in zip(HEADER, rows[1], strict=True):
        bare = unicodedata.normalize("NFKC", cell).lstrip(" \"';,\t\r\n")
        assert cell.startswith("'") or "'=" in cell or not bare.startswith(("=", "+", "-", "@")), name
        assert not re.match(r"\s*[=+\-@]", unicodedata.normalize("NFKC", cell)), name
    lines = FORMS["csv"].render(hostile("=1")).decode("utf-8-sig").split("\r\n")
    assert all(re.fullmatch(r'("([^"]|"")*",?)+', line) for line in lines if line)


def test_a_number_is_not_changed_by_what_keeps_formulas_out():
    assert cell_text("plain text with = inside") == "plain text with = inside"
    assert cell_text('a; =1, "-2"\n@x') == "a;' =1, \"'-2\"' @x"
    rows = read_csv(FORMS["csv"].render(book_of([explanation(0, cost_usd=0.25)])))
    assert (rows[0]["cost_usd"], rows[0]["accuracy_near"]) == ("0.25", "")
