"""`mistudio upload`: stores a corpus for training: a file, or every file below a folder.

The service checks a file; the files of a folder are checked here, made one stream and checked again
there. What is shown of a corpus is in `corpora.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options
from mistudio_cli.output import emit_message

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2

    from mistudio_rpc.client import Client

_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t"}


def _column(name: str, what: str) -> Any:
    return typer.Option(name, help=f"{what}; JSONL and Parquet.", show_default=False)


def upload(
    path: Annotated[
        Path,
        typer.Argument(
            help="Text (a document a line), .jsonl or .parquet; text and JSONL also .gz or .zst; or a folder of them.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", help="Name to store it under; default: the file's name.", show_default=False)
    ] = "",
    text_column: Annotated[str, _column("--text-column", "Column of the text; default: text")] = "",
    messages_column: Annotated[str, _column("--messages-column", "Column of a chat; default: messages")] = "",
    label_column: Annotated[list[str] | None, _column("--label-column", "Column of a label; may be repeated")] = None,
    group_column: Annotated[str, _column("--group-column", "Column of the group (author, customer)")] = "",
    time_column: Annotated[str, _column("--time-column", "Column of the time, ISO 8601 or seconds")] = "",
    separator: Annotated[
        str, typer.Option("--separator", help=r"What parts documents of a text, e.g. '\n\n'.", show_default=False)
    ] = "",
    whole_files: Annotated[
        bool, typer.Option("--whole-files", help="In a folder, take each text file as one document.")
    ] = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Upload a corpus."""
    given = dict(locals())  # parameters have the names of the header's fields
    from mistudio_cli.corpora import show_upload
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        stored = send(client, path, header_of(given), whole_files=whole_files)
    if as_json:
        emit_message(stored)
    else:
        show_upload(stored)


def header_of(given: dict[str, Any]) -> train_service_pb2.UploadHeader:
    """The header that the options ask for; escapes in the separator are read here."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.requests import fill

    separator = given["separator"]
    for written, meant in _ESCAPES.items():
        separator = separator.replace(written, meant)
    values = {**given, "separator": separator, "label_columns": given["label_column"]}
    return fill(train_service_pb2.UploadHeader(), values)


def send(
    client: Client,
    path: Path,
    header: train_service_pb2.UploadHeader | None = None,
    *,
    whole_files: bool = False,
) -> train_service_pb2.UploadCorpusResponse:
    """Uploads with a bar on a terminal. Raises InvalidInput and what the server raises."""
    from mistudio_cli.render import Transfer
    from mistudio_core.errors import InvalidInput

    if path.is_dir():
        return _send_folder(client, path.resolve(), header, whole_files=whole_files)
    if whole_files:
        raise InvalidInput.field("whole-files", "true", "nothing for a single file", "Upload its folder.")
    size = path.stat().st_size if path.is_file() else 0
    with Transfer(f"upload {path.name}", size) as transfer:
        return client.upload_corpus(path, header=header, on_bytes=transfer.at)


def _send_folder(
    client: Client, folder: Path, header: train_service_pb2.UploadHeader | None, *, whole_files: bool
) -> train_service_pb2.UploadCorpusResponse:
    """The files of a folder as one stream of records: what only this side can say goes out of the header."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.render import Transfer
    from mistudio_core.corpus.columns import Columns
    from mistudio_core.corpus.folder import FolderStream, files_below

    coming = train_service_pb2.UploadHeader()
    if header is not None:
        coming.CopyFrom(header)
    columns = Columns(
        text=coming.text_column,
        messages=coming.messages_column,
        labels=tuple(coming.label_columns),
        group=coming.group_column,
        time=coming.time_column,
    )
    stream = FolderStream(
        folder=folder,
        files=files_below(folder),
        columns=columns,
        separator=coming.separator,
        whole_files=whole_files,
    )
    coming.name = coming.name or folder.name
    coming.filename = f"{coming.name}.jsonl"
    coming.separator = ""
    with Transfer(f"upload {folder.name}/, {len(stream.files)} files", 0) as transfer:
        return client.upload_pieces(coming, stream.pieces(), on_bytes=transfer.at)
