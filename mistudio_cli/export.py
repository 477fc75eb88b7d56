"""`mistudio export`: saves what a job made: an analysis, explanations, a report, or a trained SAE's files.

A file appears whole and with the announced SHA-256, or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options
from mistudio_core.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from mistudio_rpc.client import Client

_FIND = "json, csv, xml, pytorch, txt, parquet, safetensors, neuronpedia, delphi, zip, saedashboard"
_EXPLAIN = "json, html, pdf, csv, txt, audit_json, audit_html, audit_pdf"
_FORMATS = {"train": "safetensors", "find": _FIND, "explain": _EXPLAIN}
_ANALYSIS = "feature_analysis.json"
# What Find writes beside its JSON.
_BESIDE = ("pattern_categories.json", "quality_metrics.json")


def export(
    job_id: Annotated[str, typer.Argument(help="A completed job.", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"find: {_FIND}; explain: {_EXPLAIN}; train: safetensors (the SAE, SAELens layout).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, or a folder that is there (train: folder); default: its own name.",
            show_default=False,
        ),
    ] = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Download what a completed job made."""
    from mistudio_cli.output import emit, say
    from mistudio_cli.session import connect
    from mistudio_core.ids import service_of

    service = service_of(job_id)
    with connect(home, address) as client:
        if service == "train":
            saved = save_sae(client, job_id, form or "safetensors", output or Path(job_id))
        else:
            saved = [save_export(client, service, job_id, form or "json", output, tell=not as_json)]
            if service == "find" and saved[0].name == _ANALYSIS and output is not None and output.is_dir():
                saved += _summaries(client, job_id, output)
    if as_json:
        emit({"files": [str(path) for path in saved]})
    else:
        for path in saved:
            say(str(path))


def save_export(
    client: Client, service: str, job_id: str, form: str, target: Path | None, *, tell: bool = False
) -> Path:
    """Saves an analysis or explanations; whole and verified, or not at all. Raises Corrupt.

    `target` may be a folder that is there; `tell` shows on a terminal what is waited for.
    """
    import grpc

    from mistudio_rpc.status import from_rpc_error

    try:
        return _save(_parts(client, service, job_id, form), target, form if tell else "")
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _summaries(client: Client, job_id: str, folder: Path) -> list[Path]:
    """The two summaries of an analysis, into a folder."""
    from mistudio.artifact.v1 import artifact_pb2, artifact_service_pb2

    listed = client.artifacts.ListArtifacts(artifact_service_pb2.ListArtifactsRequest(job_id=job_id)).artifacts
    features = next(a for a in listed if a.kind == artifact_pb2.ARTIFACT_KIND_FEATURES)
    return [client.download(f"{features.uri}/{name}", folder / name) for name in _BESIDE]


def save_sae(client: Client, job_id: str, form: str, folder: Path) -> list[Path]:
    """Saves the files of a trained SAE into a folder."""
    from mistudio.artifact.v1 import artifact_pb2
    from mistudio.train.v1 import train_service_pb2

    if form != "safetensors":
        raise InvalidInput.field("format", form, "safetensors", "Find and Explain jobs export tables and reports.")
    result = client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))
    sae = next(a for a in result.artifacts if a.kind == artifact_pb2.ARTIFACT_KIND_SAE)
    folder.mkdir(parents=True, exist_ok=True)
    return [client.download(f"{sae.uri}/{file.name}", folder / file.name) for file in sae.files]


def _parts(client: Client, service: str, job_id: str, form: str) -> Iterator[Any]:
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.requests import fill

    values = {"job_id": job_id, "format": form}
    if service == "find":
        yield from client.find.ExportFeatures(fill(find_service_pb2.ExportFeaturesRequest(), values))
    elif service == "explain":
        yield from client.explain.ExportExplanations(fill(explain_service_pb2.ExportExplanationsRequest(), values))
    else:
        known = ", ".join(f"{name} ({forms})" for name, forms in _FORMATS.items())
        raise InvalidInput.field("job", job_id, f"a job of {known}")


def _save(parts: Iterator[Any], target: Path | None, told: str) -> Path:
    from mistudio_cli.transfer import Transfer

    with Transfer(told) as transfer:
        header = next(parts).header
        transfer.begins(header.size_bytes)
        path = target or Path(Path(header.filename).name)
        path = path / Path(header.filename).name if path.is_dir() else path
        part = path.with_name(path.name + ".part")
        digest = hashlib.sha256()
        try:
            with part.open("wb") as handle:
                for message in parts:
                    handle.write(message.chunk.data)
                    digest.update(message.chunk.data)
                    transfer.arrived(len(message.chunk.data))
            if header.sha256 and digest.hexdigest() != header.sha256:
                raise Corrupt(f"{path.name} arrived with another SHA-256 than was announced. Export it again.")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path
