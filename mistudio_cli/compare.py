"""`mistudio compare`: what became of the features of one analysis in others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_core.errors import InvalidInput

if TYPE_CHECKING:
    from mistudio.find.v1 import find_service_pb2

METHODS = ("identity", "decoder", "activation")
_PAGE = 2000
_PATIENCE_SECONDS = 1800.0


def compare(
    job_id: Annotated[str, typer.Argument(help="The analysis.", show_default=False)],
    others: Annotated[list[str], typer.Argument(help="The others, each compared with it.", show_default=False)],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="How features are matched: identity (one SAE), decoder, or activation (one corpus).",
            show_default="the first that can be used",
        ),
    ] = "",
    min_similarity: Annotated[
        float | None,
        typer.Option(
            "--min-similarity",
            min=0.0,
            max=1.0,
            help="Least similarity of a match.",
            show_default="0.7 by decoder, 0.5 by activation",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, max=1_000_000, help="Most rows.")] = 50,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Compare analyses: features that match and what changed, that appeared and that vanished."""
    from mistudio.find.v1 import find_service_pb2, finding_pb2

    from mistudio_cli.session import connect

    if method and method not in METHODS:
        raise InvalidInput.field("method", method, ", ".join(METHODS))
    request = find_service_pb2.CompareFindsRequest(
        job_id=job_id,
        other=others[0],
        more=others[1:],
        method=finding_pb2.MatchMethod.Value(f"MATCH_METHOD_{method.upper() or 'UNSPECIFIED'}"),
        min_similarity=min_similarity,
    )
    with connect(home, address) as client:
        shown, left = 0, limit
        while True:
            request.page_size = max(1, min(left, _PAGE))
            page = client.find.CompareFinds(request, timeout=_PATIENCE_SECONDS)
            _show(page, as_json=as_json, head=not shown, rows=limit > 0)
            size = len(page.matches) + len(page.appeared) + len(page.vanished)
            shown, left = shown + size, left - size
            request.page_token = page.next_page_token
            if not page.next_page_token or left <= 0:
                break
    _say_rest(page.total_rows - shown if limit else 0, page.total_rows, as_json=as_json)


def _say_rest(rest: int, total: int, *, as_json: bool) -> None:
    from mistudio_cli.output import say

    if rest > 0 and not as_json:
        say(f"{rest} more rows; show them with --limit {total}")


def _show(page: find_service_pb2.CompareFindsResponse, *, as_json: bool, head: bool, rows: bool) -> None:
    """One page: summaries before the first one."""
    from mistudio_cli.output import emit, message_json, show, table

    if as_json:
        if not rows:
            for kind in ("matches", "appeared", "vanished"):
                page.ClearField(kind)
        emit(message_json(page))
        return
    for found in page.comparisons if head else ():
        _show_summary(found)
    columns = ("other", "feature", "in other", "likeness", "coherence", "in other ", "what changed")
    if rows:
        show(table("", columns, _rows(page), right=columns[1:6]))


def _show_summary(found: find_service_pb2.Comparison) -> None:
    from mistudio.find.v1 import finding_pb2

    from mistudio_cli.output import facts_table, show

    changes = ", ".join(
        f"{finding_pb2.FeatureChange.Name(c.change).removeprefix('FEATURE_CHANGE_').lower()} {c.count}"
        for c in found.changes
    )
    facts = {
        "with": found.other_job_id,
        "live features": f"{found.live_features:,} and {found.other_live_features:,}",
        "matched": f"{found.matched:,}, {found.mutual:,} of them both ways; mean likeness {found.mean_similarity:.3f}",
        "appeared": f"{found.appeared:,}",
        "vanished": f"{found.vanished:,}",
        "changed": f"{found.changed:,}" + (f": {changes}" if changes else ""),
        "how": found.note,
    }
    show(facts_table(facts))


def _rows(page: find_service_pb2.CompareFindsResponse) -> list[tuple[object, ...]]:
    from mistudio.find.v1 import finding_pb2

    rows: list[tuple[object, ...]] = []
    for match in page.matches:
        changes = [finding_pb2.FeatureChange.Name(c).removeprefix("FEATURE_CHANGE_").lower() for c in match.changes]
        rows.append(
            (
                match.other_job_id,
                match.feature_id,
                match.other_feature_id,
                f"{match.similarity:.3f}",
                f"{match.feature.coherence_score:.2f}",
                f"{match.other_feature.coherence_score:.2f}",
                ", ".join(changes),
            )
        )
    for lone in page.appeared:
        own = lone.feature
        rows.append((lone.other_job_id, "", own.feature_id, "", "", f"{own.coherence_score:.2f}", "appeared"))
    for lone in page.vanished:
        own = lone.feature
        rows.append((lone.other_job_id, own.feature_id, "", "", f"{own.coherence_score:.2f}", "", "vanished"))
    return rows
