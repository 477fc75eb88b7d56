"""`mistudio explanations queue` and `review`: what people should look at, and what they decide.

With a terminal, review shows one explanation after the other with its evidence and asks; without one the
verdict comes by options. Every verdict is kept; the last one counts.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.text import cut, plain, short
from mistudio_core.errors import InvalidInput, MistudioError

if TYPE_CHECKING:
    from mistudio.explain.v1 import explain_service_pb2, explanation_pb2

    from mistudio_rpc.client import Client

_PAGE = 100
_TEXTS = 5
_TEXT = 100
_PROMPT = "[a]pprove, [c]orrect, [r]eject, [s]kip or [q]uit"


def queue(
    job_id: Annotated[str, typer.Argument(help="Only this Explain job; default: all.", show_default=False)] = "",
    decided: Annotated[bool, typer.Option("--decided", help="What was decided instead of what waits.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="Most rows.")] = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List what a person should look at, most urgent first."""
    from mistudio_cli.output import emit_message, say, show, table
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        items, total = _listed(client, job_id, limit, decided=decided)
    if as_json:
        for item in items:
            emit_message(item)
        return
    columns = ("job", "feature", "quality", "safety", "verdict" if decided else "why", "explanation")
    if items:
        show(table("", columns, [_row(item) for item in items], right=columns[1:3]))
    say(f"{len(items)} of {total} {'decided' if decided else 'waiting'}.")


def review(
    job_id: Annotated[str, typer.Argument(help="The Explain job.", show_default=False)],
    feature_id: Annotated[
        int | None, typer.Argument(help="Index of the feature; default: asks about each.", min=0, show_default=False)
    ] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Right as it stands.")] = False,
    correct: Annotated[str | None, typer.Option("--correct", help="A better explanation.", show_default=False)] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Wrong.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; needed unless approved.", show_default=False)] = "",
    author: Annotated[
        str | None, typer.Option("--author", help="Who decides. Default: your login name.", show_default=False)
    ] = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Decide about explanations: approve, correct or reject; asks about each that waits unless one is named."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, say
    from mistudio_cli.session import connect

    given = [approve, correct is not None, reject]
    by = author if author is not None else _login()
    with connect(home, address) as client:
        if feature_id is None and not any(given):
            _interactive(client, job_id, by, as_json=as_json)
            return
        if feature_id is None or sum(given) != 1:
            raise InvalidInput.field(
                "verdict",
                "nothing" if not any(given) else "more than one, or no feature",
                "a feature with one of --approve, --correct TEXT and --reject",
            )
        request = explain_service_pb2.ReviewExplanationRequest(
            job_id=job_id, feature_id=feature_id, approved=approve, correction=correct or "", reason=reason, author=by
        )
        explanation = client.explain.ReviewExplanation(request).explanation
    if as_json:
        emit_message(explanation)
    else:
        say(f"Feature {feature_id}: {short(explanation.review, 'verdict')}.")


def _interactive(client: Client, job_id: str, author: str, *, as_json: bool) -> None:
    """Asks about one after the other until the queue is empty or the person leaves."""
    if not sys.stdin.isatty() or as_json:
        raise InvalidInput.field(
            "feature",
            "nothing",
            "a feature with one of --approve, --correct TEXT and --reject where there is no terminal to ask on",
            f"`mistudio explanations queue {job_id}` lists what waits.",
        )
    find_job_id = find_job(client, job_id)
    items, _ = _listed(client, job_id, 1_000_000, decided=False)
    decided = ask_all(client, items, find_job_id, author)
    from mistudio_cli.output import say

    say(f"{decided} of {len(items)} decided.")


def ask_all(client: Client, items: list[explain_service_pb2.ReviewItem], find_job_id: str, author: str) -> int:
    """Asks about each; how many were decided about."""
    from mistudio_cli.output import facts_table, say, show

    decided = 0
    for number, item in enumerate(items, 1):
        feature_id = item.explanation.feature_id
        say(f"\n{number} of {len(items)}")
        show(facts_table(facts(item.explanation)))
        show_evidence(client, find_job_id, feature_id, _TEXTS)
        answer = _answer()
        if answer == "q":
            break
        if answer != "s":
            decided += _decide(client, item, answer, author)
    return decided


def _answer() -> str:
    while True:
        answer = typer.prompt(_PROMPT).strip().lower()[:1]
        if answer in ("a", "c", "r", "s", "q"):
            return str(answer)


def _decide(client: Client, item: explain_service_pb2.ReviewItem, answer: str, author: str) -> int:
    """Sends a verdict; 1, or 0 where it was refused and the explanation goes on waiting."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import show_error

    request = explain_service_pb2.ReviewExplanationRequest(
        job_id=item.job_id, feature_id=item.explanation.feature_id, approved=answer == "a", author=author
    )
    if answer == "c":
        request.correction = typer.prompt("Better explanation")
    if answer != "a":
        request.reason = typer.prompt("Why")
    try:
        client.explain.ReviewExplanation(request)
    except MistudioError as error:
        show_error(error, as_json=False)
        return 0
    return 1


def _listed(
    client: Client, job_id: str, limit: int, *, decided: bool
) -> tuple[list[explain_service_pb2.ReviewItem], int]:
    from mistudio.explain.v1 import explain_service_pb2

    request = explain_service_pb2.ListReviewsRequest(job_id=job_id, decided=decided)
    items: list[explain_service_pb2.ReviewItem] = []
    while True:
        request.page_size = min(limit - len(items), _PAGE)
        page = client.explain.ListReviews(request)
        items += page.items
        request.page_token = page.next_page_token
        if not page.next_page_token or len(items) >= limit:
            return items, page.total_items


def find_job(client: Client, job_id: str) -> str:
    """The Find job that a run explained."""
    from mistudio.explain.v1 import explain_service_pb2

    result = client.explain.GetExplainResult(explain_service_pb2.GetExplainResultRequest(job_id=job_id))
    return result.source_find_job


def show_evidence(client: Client, find_job_id: str, feature_id: int, count: int) -> None:
    """The strongest texts of a feature; says so where the analysis is gone."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import say, show, table

    if not count:
        return
    try:
        asked = find_service_pb2.GetFeatureRequest(job_id=find_job_id, feature_id=feature_id)
        feature = client.find.GetFeature(asked).feature
    except MistudioError as error:
        say(f"The evidence cannot be shown: {error.message}", stderr=True)
        return
    rows = [(f"{top.activation_strength:.3g}", plain(top.text)) for top in feature.top_activations[:count]]
    rows += [("0", plain(text)) for text in feature.contrast_texts[:count]]
    if rows:
        show(table("Evidence: strongest texts, then texts on which it is silent", ("activation", "text"), rows))


def facts(e: explanation_pb2.Explanation) -> dict[str, object]:
    """What a person should know of an explanation."""
    parts, review = e.quality_parts, e.review
    verdict = f"{short(review, 'verdict')} by {plain(review.author)}" if e.HasField("review") else ""
    found: dict[str, object] = {
        "feature": e.feature_id,
        "explanation": plain(e.explanation) or f"failed: {plain(e.failure)}",
        "review": f"{verdict}: {plain(review.reason)}" if verdict and review.reason else verdict,
        "correction": plain(review.correction),
        "quality": "" if e.failure else f"{e.explanation_quality:.3f} (confidence {e.explanation_confidence:.2f})",
        "accuracy": ""
        if e.failure
        else f"{parts.accuracy:.2f} ({parts.accuracy_low:.2f} to {parts.accuracy_high:.2f}) by {parts.accuracy_method}",
        "verification": short(e, "pattern_verification"),
        "safety": f"{short(e, 'safety_assessment').replace('_', ' ')} {plain(e.safety_reason)}".strip(),
        "relevance": short(e, "business_relevance"),
        "coherence": f"{e.original_coherence:.2f}",
        "keywords": plain(", ".join(e.pattern_keywords)),
        "look at it": plain(" ".join(e.flags)),
        "by": f"{plain(e.engine)} ({plain(e.model)}){', from the cache' if e.cached else ''}",
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def _row(item: explain_service_pb2.ReviewItem) -> tuple[object, ...]:
    e = item.explanation
    decided = e.HasField("review")
    return (
        item.job_id,
        e.feature_id,
        "" if e.failure else f"{e.explanation_quality:.2f}",
        short(e, "safety_assessment").replace("_", " "),
        f"{short(e.review, 'verdict')} by {plain(e.review.author)}" if decided else plain(" ".join(e.flags)),
        cut(plain(e.review.correction or e.explanation), _TEXT),
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user entry
        return ""
