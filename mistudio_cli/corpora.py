"""`mistudio corpora`: lists, shows and deletes uploaded corpora; and what an upload says at its end."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mistudio.train.v1 import corpus_pb2, train_service_pb2

app = typer.Typer(help="List, show and delete uploaded corpora.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the corpus.", show_default=False)]
_SHOWN_VALUES = 8


@app.command("list")
def list_corpora(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most corpora.")] = 50,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List uploaded corpora, newest first."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import bytes_text, emit_message, say, show, table
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        found = client.train.ListCorpora(train_service_pb2.ListCorporaRequest(page_size=limit))
    if as_json:
        emit_message(found)
        return
    rows = [
        (
            c.name,
            _count(c.statistics.documents) if c.HasField("statistics") else "?",
            bytes_text(c.size_bytes),
            c.created_at.ToJsonString(),
        )
        for c in found.corpora
    ]
    show(table("", ("corpus", "documents", "size", "uploaded"), rows, right=("documents", "size")))
    if found.total_corpora > len(rows):
        say(f"{found.total_corpora - len(rows)} more; show them with --limit {min(found.total_corpora, 1000)}")


@app.command("show")
def show_corpus(
    name: Name, home: options.Home = None, address: options.Address = None, as_json: options.Json = False
) -> None:
    """Show a corpus: where it comes from, its statistics and warnings."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import bytes_text, emit_message, facts_table, show
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        corpus = client.train.GetCorpus(train_service_pb2.GetCorpusRequest(name=name)).corpus
    if as_json:
        emit_message(corpus)
        return
    facts: dict[str, object] = {
        "corpus": corpus.name,
        "uploaded": corpus.created_at.ToJsonString(),
        "size": bytes_text(corpus.size_bytes),
        "sha256": corpus.sha256,
        "from": corpus.source,
    }
    show(facts_table({**facts, **_facts(corpus.statistics)} if corpus.HasField("statistics") else facts))
    _warn(corpus.warnings)


@app.command("delete")
def delete(
    name: Name, home: options.Home = None, address: options.Address = None, as_json: options.Json = False
) -> None:
    """Delete a corpus; refused while a job that has not ended reads it."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import bytes_text, emit_message, say
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        gone = client.train.DeleteCorpus(train_service_pb2.DeleteCorpusRequest(name=name))
    if as_json:
        emit_message(gone)
    else:
        say(f"Deleted {gone.name}: {bytes_text(gone.size_bytes)} freed.")


def show_upload(stored: train_service_pb2.UploadCorpusResponse) -> None:
    """What was stored, and what to know before training on it."""
    from mistudio_cli.output import count_text, facts_table, say, show

    size = f"{count_text(stored.lines_count)} documents, {stored.size_bytes / 1e6:.1f} MB"
    say(f"{stored.message}: {size}. Train on it with --corpus {shlex.quote(stored.filename)}")
    show(facts_table(_facts(stored.statistics)))
    _warn(stored.warnings)


def _facts(found: corpus_pb2.CorpusStatistics) -> dict[str, object]:
    about = "about " if found.duplicates_estimated else ""
    facts: dict[str, object] = {
        "documents": _count(found.documents),
        "characters": f"mean {found.mean_characters:,.0f}, median {found.median_characters:,}, "
        f"most {found.max_characters:,}",
        "copies": f"{about}{found.duplicate_share:.1%} repeat an earlier document",
    }
    if found.columns:
        facts["columns"] = ", ".join(found.columns)
    for label in found.labels:
        values = ", ".join(f"{v.value} {_count(v.documents)}" for v in label.values[:_SHOWN_VALUES])
        more = label.different_values - min(len(label.values), _SHOWN_VALUES)
        facts[f"label {label.name}"] = f"{_count(label.different_values)} values: {values}" + (
            f" and {_count(more)} more" if more else ""
        )
    if found.groups:
        facts["groups"] = f"{about}{_count(found.groups)}"
    if found.HasField("first_time"):
        facts["times"] = f"{found.first_time.ToJsonString()} to {found.last_time.ToJsonString()}"
    return facts


def _warn(warnings: Sequence[str]) -> None:
    from mistudio_cli.output import say

    for warning in warnings:
        say(f"Warning: {warning}")


def _count(number: int) -> str:
    return f"{number:,}"
