"""`mistudio features`: list, show, search and watch the features that an analysis found.

Tables for people; with --json one object a line, as the HTTP API shows it. Text of a corpus is
shown without the characters that would steer a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.text import cut, plain, short
from mistudio_core.errors import MistudioError, Unavailable

if TYPE_CHECKING:
    from mistudio.feature.v1 import feature_pb2
    from mistudio.find.v1 import find_service_pb2

    from mistudio_rpc.client import Client

app = typer.Typer(help="List, show, search and watch the features of analyses.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The Find job.", show_default=False)]
Filter = Annotated[
    str,
    typer.Option(
        "--filter",
        help="Which features, for example 'coherence_score >= 0.6 AND semantic_tags:json AND NOT dead = true'.",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="Most features.")]
_PAGE = 50
_WORDS = 5
_PATIENCE_SECONDS, _PAUSE_SECONDS = 60.0, 0.5


@app.command("list")
def list_features(
    job_id: JobId,
    filter_text: Filter = "",
    order_by: Annotated[
        str,
        typer.Option(
            "--order-by",
            help="Order, for example 'activation_statistics.frequency desc'; default: most coherent first.",
            show_default=False,
        ),
    ] = "",
    limit: Limit = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List features, most coherent first."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import emit_message, say, show, table
    from mistudio_cli.session import connect

    request = find_service_pb2.ListFeaturesRequest(job_id=job_id, filter=filter_text, order_by=order_by)
    rows, total = [], 0
    with connect(home, address) as client:
        for feature, total in _listed(client, request, limit):  # noqa: B007  (the last one is said below)
            if as_json:
                emit_message(feature)
            else:
                rows.append(_row(feature))
    if as_json:
        return
    columns = ("feature", "coherence", "tier", "category", "frequency", "keywords", "strongest text")
    if rows:
        show(table("", columns, rows, right=("feature", "coherence", "frequency")))
    more = f"; --limit {min(total, 10 * limit)} shows more" if len(rows) < total else ""
    say(f"{len(rows)} of {total} features{more}.")


@app.command("show")
def show_feature(
    job_id: JobId,
    feature_id: Annotated[int, typer.Argument(help="Index of the feature.", min=0, show_default=False)],
    texts: Annotated[int, typer.Option("--texts", min=0, max=1000, help="Most texts to show.")] = 10,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Show one feature with its strongest texts."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import emit_message, facts_table, show, table
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        request = find_service_pb2.GetFeatureRequest(job_id=job_id, feature_id=feature_id)
        feature = client.find.GetFeature(request).feature
    if as_json:
        emit_message(feature)
        return
    show(facts_table(_facts(feature)))
    rows = [(f"{top.activation_strength:.3g}", plain(top.text)) for top in feature.top_activations[:texts]]
    if rows:
        show(table("Strongest texts", ("activation", "text"), rows, right=("activation",)))


@app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(help="Words that must all be there.", show_default=False)],
    job_id: Annotated[
        str, typer.Option("--job", help="Only this analysis; default: all completed ones.", show_default=False)
    ] = "",
    filter_text: Filter = "",
    limit: Limit = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Search texts, keywords and tags, best hits first. An argument with blanks is a phrase."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import emit, say, show, table
    from mistudio_cli.session import connect

    query = " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)
    request = find_service_pb2.SearchFeaturesRequest(query=query, job_id=job_id, filter=filter_text)
    with connect(home, address) as client:
        hits, response = _hits(client, request, limit)
    if as_json:
        for hit, feature in hits:
            emit(_hit_json(hit, feature))
    elif hits:
        rows = [
            (h.job_id, h.feature_id, f"{h.score:.2f}", f"{f.coherence_score:.2f}", plain(h.snippet)) for h, f in hits
        ]
        columns = ("job", "feature", "score", "coherence", "where")
        show(table("", columns, rows, right=columns[1:4]))
    if not as_json:
        say(f"{len(hits)} of {response.total_hits} hits.")
    for unsearched in response.unsearched_job_ids:
        say(f"{unsearched} could not be searched; run its Find job again.", stderr=True)


@app.command("watch")
def watch(
    job_id: JobId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only features after this sequence.")] = 0,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Watch features as they are found; Ctrl-C leaves the watch, not the job."""
    from mistudio_cli.output import emit_message, say
    from mistudio_cli.session import connect
    from mistudio_cli.watching import INTERRUPTED

    last = after
    with connect(home, address) as client:
        try:
            for event in _events(client, job_id, after):
                if event.WhichOneof("event") != "feature":
                    continue
                last = event.sequence
                if as_json:
                    emit_message(event.feature)
                else:
                    say("  ".join(str(cell) for cell in _row(event.feature)))
        except KeyboardInterrupt:
            say(
                f"\nLeft the watch; the job goes on. Go on: mistudio features watch {job_id} --after {last}",
                stderr=True,
            )
            raise typer.Exit(INTERRUPTED) from None


def _listed(
    client: Client, request: find_service_pb2.ListFeaturesRequest, limit: int
) -> Iterator[tuple[feature_pb2.Feature, int]]:
    """(feature, how many there are in all), a page at a time."""
    left = limit
    while left:
        request.page_size = min(left, _PAGE)
        page = client.find.ListFeatures(request)
        for feature in page.features:
            yield feature, page.total_features
        left -= len(page.features)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return


def _hits(
    client: Client, request: find_service_pb2.SearchFeaturesRequest, limit: int
) -> tuple[
    list[tuple[find_service_pb2.SearchHit, feature_pb2.Feature]],
    find_service_pb2.SearchFeaturesResponse,
]:
    """The best hits with their features, and the last page."""
    hits: list[tuple[find_service_pb2.SearchHit, feature_pb2.Feature]] = []
    while True:
        request.page_size = min(limit - len(hits), _PAGE)
        page = client.find.SearchFeatures(request)
        hits += zip(page.hits, page.features, strict=True)
        request.page_token = page.next_page_token
        if not page.next_page_token or len(hits) >= limit:
            return hits, page


def _events(client: Client, job_id: str, after: int) -> Iterator[find_service_pb2.FeatureEvent]:
    """Events of a watch; attaches again for a minute where the connection breaks."""
    import grpc
    from mistudio.find.v1 import find_service_pb2

    from mistudio_rpc.status import from_rpc_error

    last, contact = after, time.monotonic()
    while True:
        call = client.find.WatchFeatures(find_service_pb2.WatchFeaturesRequest(job_id=job_id, after_sequence=last))
        try:
            for response in call:
                contact, last = time.monotonic(), max(last, response.event.sequence)
                yield response.event
                if response.event.HasField("end"):
                    return
        except grpc.RpcError as error:
            problem: MistudioError = from_rpc_error(error)
            if not isinstance(problem, Unavailable) or time.monotonic() - contact > _PATIENCE_SECONDS:
                raise problem from error
        finally:
            call.cancel()
        time.sleep(_PAUSE_SECONDS)


def _row(feature: feature_pb2.Feature) -> tuple[object, ...]:
    top = feature.top_activations[0].text if feature.top_activations else ""
    return (
        feature.feature_id,
        f"{feature.coherence_score:.2f}",
        "dead" if feature.dead else short(feature, "quality_level"),
        short(feature, "pattern_category"),
        f"{feature.activation_statistics.frequency:.2%}",
        plain(", ".join(feature.pattern_keywords[:_WORDS])),
        cut(plain(top)),
    )


def _facts(feature: feature_pb2.Feature) -> dict[str, object]:
    statistics = feature.activation_statistics
    facts: dict[str, object] = {
        "feature": f"{feature.feature_id}{' (dead: it never fired)' if feature.dead else ''}",
        "coherence": f"{feature.coherence_score:.3f} ({short(feature, 'quality_level')})",
        "category": f"{short(feature, 'pattern_category')} (confidence {feature.category_confidence:.2f})",
        "complexity": short(feature, "complexity"),
        "fires on": f"{statistics.frequency:.3%} of tokens: {statistics.count} in {statistics.documents} documents",
        "activation": f"mean {statistics.mean:.3g}, largest {statistics.max:.3g}",
        "keywords": plain(", ".join(feature.pattern_keywords)),
        "tags": plain(", ".join(feature.semantic_tags)),
        "tokens": plain(", ".join(f"{d.text.strip()} {d.share:.0%}" for d in feature.driving_tokens)),
        "behaviours": plain(", ".join(f"{i.name} {i.score:.2f}" for i in feature.behavioral_indicators)),
        "goes with": plain(", ".join(f"{a.column}={a.value} {a.auroc:.2f}" for a in feature.associations[:_WORDS])),
        "raises": plain(", ".join(repr(t.token) for t in feature.promoted_tokens)),
    }
    return {name: value for name, value in facts.items() if value}


def _hit_json(hit: find_service_pb2.SearchHit, feature: feature_pb2.Feature) -> dict[str, object]:
    from mistudio_cli.output import message_json

    return {**message_json(hit), "feature": message_json(feature)}
