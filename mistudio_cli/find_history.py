"""`mistudio find-history`: lists completed analyses with where they come from, and removes old ones by a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options

if TYPE_CHECKING:
    from mistudio.find.v1 import find_service_pb2

    from mistudio_rpc.client import Client

app = typer.Typer(help="List completed analyses, and remove old ones.", no_args_is_help=True)
Corpus = Annotated[str, typer.Option("--corpus", help="Only analyses of this corpus.", show_default=False)]
Sae = Annotated[str, typer.Option("--sae", help="Only analyses of the SAE with this SHA-256.", show_default=False)]
Model = Annotated[str, typer.Option("--model", help="Only analyses of this model.", show_default=False)]
_PAGE = 200
_DIGEST = 12


@app.command("list")
def list_history(
    corpus_file: Corpus = "",
    sae_sha256: Sae = "",
    model_name: Model = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10000, help="Most analyses.")] = 50,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List completed analyses with where they come from, newest first."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import emit, message_json, say, show, table
    from mistudio_cli.session import connect

    request = find_service_pb2.ListFindHistoryRequest(
        corpus_file=corpus_file, sae_sha256=sae_sha256, model_name=model_name
    )
    with connect(home, address) as client:
        found, total = _listed(client, request, limit)
    if as_json:
        emit({"analyses": [message_json(entry) for entry in found], "total_analyses": total})
        return
    columns = ("job", "completed", "model", "hook", "SAE", "corpus", "features", "live", "coherence", "size")
    show(table("", columns, [_row(entry) for entry in found], right=columns[6:]))
    if total > len(found):
        say(f"{total - len(found)} more; show them with --limit {min(total, 10000)}")


@app.command("prune")
def prune(
    keep_newest: Annotated[
        int | None,
        typer.Option("--keep-newest", min=0, help="Of each corpus and SAE so many stay.", show_default=False),
    ] = None,
    older_than_days: Annotated[
        int | None,
        typer.Option("--older-than-days", min=0, help="Only those that completed before that go.", show_default=False),
    ] = None,
    corpus_file: Corpus = "",
    sae_sha256: Sae = "",
    model_name: Model = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what would go.")] = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Remove the files of old analyses; what other jobs build on stays, and so does the list."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import bytes_text, emit_message, say
    from mistudio_cli.session import connect

    request = find_service_pb2.PruneFindHistoryRequest(
        keep_newest=keep_newest,
        older_than_days=older_than_days,
        corpus_file=corpus_file,
        sae_sha256=sae_sha256,
        model_name=model_name,
        dry_run=not yes,
    )
    with connect(home, address) as client:
        gone = client.find.PruneFindHistory(request)
    if as_json:
        emit_message(gone)
        return
    for entry in gone.removed:
        say(f"{entry.job_id}  {entry.corpus_file}  {bytes_text(entry.size_bytes)}")
    for entry in gone.in_use:
        say(f"{entry.job_id} stays: {', '.join(entry.used_by)} builds on it.")
    word = "would go; remove them with --yes" if gone.dry_run else "removed"
    say(f"{len(gone.removed)} analyses, {bytes_text(gone.size_bytes)} {word}.")
    if gone.more:
        say("There are more: run the command again.")


def _listed(
    client: Client, request: find_service_pb2.ListFindHistoryRequest, limit: int
) -> tuple[list[find_service_pb2.AnalysisEntry], int]:
    """(the newest analyses, how many there are in all)."""
    found: list[find_service_pb2.AnalysisEntry] = []
    while True:
        request.page_size = min(limit - len(found), _PAGE)
        page = client.find.ListFindHistory(request)
        found += page.analyses
        request.page_token = page.next_page_token
        if not page.next_page_token or len(found) >= limit:
            return found, page.total_analyses


def _row(entry: find_service_pb2.AnalysisEntry) -> tuple[object, ...]:
    from mistudio_cli.output import bytes_text

    lineage = entry.lineage
    return (
        entry.job_id,
        entry.completed_at.ToJsonString(),
        lineage.model_name,
        lineage.hook_name,
        lineage.sae_sha256[:_DIGEST],
        lineage.corpus_file,
        entry.total_features,
        entry.live_features,
        f"{entry.mean_coherence:.3f}",
        "removed" if entry.pruned else bytes_text(entry.size_bytes),
    )
