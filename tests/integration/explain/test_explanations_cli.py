"""`mistudio explanations` and `mistudio audit` against a served installation."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mistudio_cli.__main__ import run_command
from mistudio_core.home import Home
from mistudio_core.jobs.reviews import ReviewStore
from tests.support.explains import Explains, explanation, serving_explains


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
async def explains(home: Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Explains]:
    monkeypatch.setenv("MISTUDIO_ADDRESS", home.control_target)
    async with serving_explains(home) as running:
        yield running


async def said(capsys, *arguments: str, code: int = 0) -> str:
    """What a command prints on stdout, or where it fails on stderr."""
    capsys.readouterr()
    assert await asyncio.to_thread(run_command, list(arguments)) == code
    output = capsys.readouterr()
    return output.err if code and "--json" not in arguments else output.out


async def test_runs_are_listed_shown_searched_and_compared(explains, capsys):
    one = await explains.run([explanation(i, explanation=f"About \x1b[31m tulips {i}.") for i in range(4)])
    two = await explains.run([explanation(i, explanation_quality=0.5) for i in range(3)])
    listed = await said(capsys, "explanations", "list", one, "--min-quality", "0.93")
    assert "3 of 3 explanations" in listed and "tulips 2" in listed and "\x1b" not in listed
    rows = [json.loads(r) for r in (await said(capsys, "explanations", "list", one, "--json")).splitlines()]
    assert [r["feature_id"] for r in rows] == [0, 1, 2, 3]
    shown = await said(capsys, "explanations", "show", one, "1", "--texts", "0")
    assert "tulips 1" in shown and "lexical-auroc/1" in shown
    found = await said(capsys, "explanations", "search", "tul*", "--limit", "2")
    assert "2 of 4 hits" in found and one in found
    history = await said(capsys, "explanations", "history")
    assert one in history and two in history and "2 of 2 runs" in history
    compared = await said(capsys, "explanations", "compare", one, two)
    assert "3 (1 only in the first, 0 in the other)" in compared and "-0.45" in compared
    assert json.loads(await said(capsys, "explanations", "compare", one, two, "--json"))["total_pairs"] == 3
    streamed = await said(capsys, "explanations", "stream", "find_20250101_000000_00000000", "1", code=1)
    assert "JOB_NOT_FOUND" in streamed


async def test_a_verdict_comes_by_options_where_there_is_no_terminal(explains, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    job_id = await explains.run([explanation(i, flags=("Look at it.",)) for i in range(3)])
    assert "3 of 3 waiting" in await said(capsys, "explanations", "queue", job_id)
    review = ("explanations", "review", job_id)
    assert "approved" in await said(capsys, *review, "0", "--approve", "--author", "Ada")
    corrected = await said(capsys, *review, "1", "--correct", "On hats.", "--reason", "Seen.", "--json")
    assert json.loads(corrected)["review"]["correction"] == "On hats."
    for wrong in ((), ("2",), ("2", "--approve", "--reject"), ("--approve",), ("2", "--reject")):
        assert "INVALID_FIELD" in await said(capsys, *review, *wrong, code=1)
    assert "1 of 1 waiting" in await said(capsys, "explanations", "queue")
    assert "approved by Ada" in await said(capsys, "explanations", "queue", "--decided")


async def test_a_person_is_asked_about_each(explains, capsys, monkeypatch):
    job_id = await explains.run([explanation(i, flags=("Look at it.",), explanation_quality=i / 10) for i in range(5)])
    monkeypatch.setattr("sys.stdin", Terminal("x\na\nc\nOn hats.\nWrong word.\ns\nr\nNothing fits.\nq\n"))
    output = await said(capsys, "explanations", "review", job_id, "--author", "Ada")
    assert "3 of 5 decided." in output and "Look at it." in output
    found = await ReviewStore(explains.runtime.database).of(job_id)
    assert [(r.feature_id, r.verdict, r.correction, r.reason, r.author) for r in found] == [
        (0, "approved", "", "", "Ada"),
        (1, "corrected", "On hats.", "Wrong word.", "Ada"),
        (3, "rejected", "", "Nothing fits.", "Ada"),
    ]


async def test_an_audit_report_is_checked_alone_and_against_the_service(explains, capsys, tmp_path: Path):
    job_id = await explains.run([explanation(i, safety_assessment="concerning") for i in range(2)])
    for form, suffix in (("audit_json", "json"), ("audit_html", "html"), ("audit_pdf", "pdf")):
        file = tmp_path / f"a.{suffix}"
        await said(capsys, "export", job_id, "--format", form, "-o", str(file))
        assert "the same as the service gives" in await said(capsys, "audit", "verify", str(file), "--job", job_id)
    whole = tmp_path / "a.json"
    changed = tmp_path / "b.json"
    changed.write_bytes(whole.read_bytes().replace(b"garden", b"jungle", 1))
    assert "was changed" in await said(capsys, "audit", "verify", str(changed), code=1)
    await said(capsys, "explanations", "review", job_id, "0", "--approve")
    assert json.loads(await said(capsys, "audit", "verify", str(whole), "--json"))["intact"] is True
    assert "decided" in await said(capsys, "audit", "verify", str(whole), "--job", job_id, code=1)
