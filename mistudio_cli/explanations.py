"""`mistudio explanations`: list, show, search, compare and review what runs explained.

Tables for people; with --json one object a line, as the HTTP API shows it. Reviews stand in reviews.py,
one explanation as it is written in stream.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options, reviews, stream
from mistudio_cli.text import cut, plain, short

if TYPE_CHECKING:
    from mistudio.explain.v1 import explain_service_pb2, explanation_pb2

app = typer.Typer(help="List, show, search, compare and review explanations.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The Explain job.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="Most rows.")]
MinQuality = Annotated[
    float | None, typer.Option("--min-quality", min=0, max=1, help="Only from this quality on.", show_default=False)
]
_PAGE = 200
_TEXT = 100
_RIGHT = ("feature", "quality", "accuracy", "coherence")

app.command("queue")(reviews.queue)
app.command("review")(reviews.review)
app.command("stream")(stream.stream)


@app.command("list")
def list_explanations(
    job_id: JobId,
    min_quality: MinQuality = None,
    category: Annotated[str | None, typer.Option("--category", help="Only this category.", show_default=False)] = None,
    safety: Annotated[
        str | None, typer.Option("--safety", help="Only this safety assessment.", show_default=False)
    ] = None,
    limit: Limit = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List explanations, best first."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, say, show, table
    from mistudio_cli.requests import fill
    from mistudio_cli.session import connect

    given = {"min_quality": min_quality, "pattern_category": category, "safety_assessment": safety}
    request = fill(explain_service_pb2.ListExplanationsRequest(job_id=job_id), given)
    rows, total = [], 0
    with connect(home, address) as client:
        for page in pages(client.explain.ListExplanations, request, limit, "explanations"):
            total = page.total_explanations
            for explanation in page.explanations:
                if as_json:
                    emit_message(explanation)
                else:
                    rows.append(row(explanation))
    if as_json:
        return
    columns = ("feature", "quality", "accuracy", "coherence", "verdict", "safety", "explanation")
    if rows:
        show(table("", columns, rows, right=_RIGHT))
    more = f"; --limit {min(total, 10 * limit)} shows more" if len(rows) < total else ""
    say(f"{len(rows)} of {total} explanations{more}.")


@app.command("show")
def show_explanation(
    job_id: JobId,
    feature_id: Annotated[int, typer.Argument(help="Index of the feature.", min=0, show_default=False)],
    texts: Annotated[int, typer.Option("--texts", min=0, max=1000, help="Most texts of evidence.")] = 5,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Show one explanation with its measures, its review and its evidence."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, facts_table, show
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        asked = explain_service_pb2.GetExplanationRequest(job_id=job_id, feature_id=feature_id)
        explanation = client.explain.GetExplanation(asked).explanation
        if as_json:
            emit_message(explanation)
            return
        show(facts_table(reviews.facts(explanation)))
        reviews.show_evidence(client, reviews.find_job(client, job_id), feature_id, texts)


@app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(help="Words that must all be there.", show_default=False)],
    job_id: Annotated[str, typer.Option("--job", help="Only this run; default: all.", show_default=False)] = "",
    min_quality: MinQuality = None,
    limit: Limit = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Search explanations and keywords, best first; word* finds its beginnings, an argument with blanks a phrase."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, say, show, table
    from mistudio_cli.requests import fill
    from mistudio_cli.session import connect

    query = " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)
    request = explain_service_pb2.SearchExplanationsRequest(query=query, job_id=job_id)
    fill(request, {"min_quality": min_quality})
    rows, total = [], 0
    with connect(home, address) as client:
        for page in pages(client.explain.SearchExplanations, request, limit, "found"):
            total = page.total_found
            for found in page.found:
                if as_json:
                    emit_message(found)
                else:
                    rows.append((found.job_id, *row(found.explanation)))
    if as_json:
        return
    columns = ("job", "feature", "quality", "accuracy", "coherence", "verdict", "safety", "explanation")
    if rows:
        show(table("", columns, rows, right=_RIGHT))
    say(f"{len(rows)} of {total} hits.")


@app.command("history")
def history(
    find_job_id: Annotated[str, typer.Option("--find", help="Only runs over this Find job.", show_default=False)] = "",
    limit: Limit = 50,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List completed runs, newest first."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, say, show, table
    from mistudio_cli.session import connect

    request = explain_service_pb2.ListExplainHistoryRequest(find_job_id=find_job_id)
    rows, total = [], 0
    with connect(home, address) as client:
        for page in pages(client.explain.ListExplainHistory, request, limit, "runs"):
            total = page.total_runs
            for run in page.runs:
                if as_json:
                    emit_message(run)
                else:
                    rows.append(_run_row(run))
    if as_json:
        return
    columns = ("job", "completed", "engine", "model", "explained", "quality", "accuracy", "flagged", "reviewed")
    if rows:
        show(table("", columns, rows, right=columns[4:]))
    say(f"{len(rows)} of {total} runs.")


@app.command("compare")
def compare(
    job_id: JobId,
    other: Annotated[str, typer.Argument(help="The other run.", show_default=False)],
    limit: Limit = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Compare two runs over the features that both explained, largest change of quality first."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, facts_table, show, table
    from mistudio_cli.session import connect

    request = explain_service_pb2.CompareExplainsRequest(job_id=job_id, other=other)
    rows: list[tuple[object, ...]] = []
    page: Any = None
    with connect(home, address) as client:
        for page in pages(client.explain.CompareExplains, request, limit, "pairs"):
            if as_json:
                emit_message(page)
            else:
                rows += map(_pair_row, page.pairs)
    if as_json:
        return
    show(facts_table(_compared(page)))
    if rows:
        columns = ("feature", "change", "before", "after", "first", "other")
        show(table("", columns, rows, right=columns[:4]))


def pages(call: Callable[[Any], Any], request: Any, limit: int, rows: str) -> Iterator[Any]:
    """Pages until so many rows of a name have come."""
    left = limit
    while True:
        request.page_size = min(left, _PAGE)
        page = call(request)
        yield page
        left -= len(getattr(page, rows))
        request.page_token = page.next_page_token
        if not page.next_page_token or left <= 0:
            return


def row(e: explanation_pb2.Explanation) -> tuple[object, ...]:
    """An explanation in a table."""
    verdict = short(e.review, "verdict") if e.HasField("review") else short(e, "pattern_verification")
    shown = e.review.correction or e.explanation or f"failed: {e.failure}"
    return (
        e.feature_id,
        "" if e.failure else f"{e.explanation_quality:.2f}",
        "" if e.failure else f"{e.quality_parts.accuracy:.2f}",
        f"{e.original_coherence:.2f}",
        verdict,
        short(e, "safety_assessment").replace("_", " "),
        cut(plain(shown), _TEXT),
    )


def _run_row(run: explain_service_pb2.ExplainRun) -> tuple[object, ...]:
    summary = run.summary_insights
    explained = sum(s.explanations for s in summary.engines)
    return (
        run.job_id,
        run.completed_at.ToDatetime().isoformat(sep=" ", timespec="minutes"),
        run.engine,
        plain(run.model),
        explained,
        f"{summary.explanation_quality_average:.3f}",
        f"{summary.accuracy_average:.3f}",
        summary.flagged,
        summary.reviewed,
    )


def _pair_row(pair: explain_service_pb2.ExplanationPair) -> tuple[object, ...]:
    return (
        pair.feature_id,
        f"{pair.quality_change:+.2f}" if pair.HasField("quality_change") else "failed",
        f"{pair.first.explanation_quality:.2f}",
        f"{pair.other.explanation_quality:.2f}",
        cut(plain(pair.first.explanation)),
        cut(plain(pair.other.explanation)),
    )


def _compared(page: explain_service_pb2.CompareExplainsResponse) -> dict[str, str]:
    first, other = page.first, page.other
    return {
        "features of both": f"{page.total_pairs} ({page.only_first} only in the first, {page.only_other} in the other)",
        "mean quality": f"{first.explanation_quality_average:.3f} and {other.explanation_quality_average:.3f}",
        "mean accuracy": f"{first.accuracy_average:.3f} and {other.accuracy_average:.3f}",
        "change of quality": f"{page.quality_change_average:+.3f} "
        f"(95 % interval {page.quality_change_low:+.3f} to {page.quality_change_high:+.3f}, over features)",
    }
