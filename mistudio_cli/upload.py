"""`mistudio upload`: stores a text corpus, one document a line, for training.

The service checks the text; this only sends it in chunks and shows how far it is.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.output import count_text, emit_message, say

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2

    from mistudio_rpc.client import Client


def upload(
    file: Annotated[Path, typer.Argument(help="Text file, UTF-8, one document a line.", show_default=False)],
    name: Annotated[
        str, typer.Option("--name", help="Name to store it under; default: the file's name.", show_default=False)
    ] = "",
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Upload a corpus."""
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        stored = send(client, file, name)
    if as_json:
        emit_message(stored)
    else:
        size = f"{count_text(stored.lines_count)} documents, {stored.size_bytes / 1e6:.1f} MB"
        say(f"{stored.message}: {size}. Train on it with --corpus {shlex.quote(stored.filename)}")


def send(client: Client, file: Path, name: str = "") -> train_service_pb2.UploadCorpusResponse:
    """Uploads with a bar on a terminal. Raises InvalidInput and what the server raises."""
    from mistudio_cli.render import Transfer

    size = file.stat().st_size if file.is_file() else 0
    with Transfer(f"upload {file.name}", size) as transfer:
        return client.upload_corpus(file, name=name, on_bytes=transfer.at)
