"""`mistudio sae`: looks into SAE files of the field, imports them, and exports ours to the field's layouts.

Works on this machine's files, without a service; only the SAE of a job is fetched from one. An imported
SAE lies under the home, in `saes/<name>`, in SAELens' layout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options
from mistudio_core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from mistudio_rpc.client import Client

app = typer.Typer(help="SAE files: look into them, import and export them.", no_args_is_help=True)

_FORMATS = "saelens, sparsify, dictionary_learning, gemma_scope, gemma_scope_2"
Format = Annotated[str, typer.Option("--format", help=f"Layout of the files: auto, {_FORMATS}.", show_default=True)]
Source = Annotated[str, typer.Argument(help="Folder with an SAE, or the name of an imported one.", show_default=False)]


@app.callback()
def sae() -> None:
    """SAE files: look into them, import and export them."""


@app.command("inspect")
def inspect(source: Source, form: Format = "auto", home: options.Home = None, as_json: options.Json = False) -> None:
    """Show what an SAE is and where it belongs; exit code 1 where it cannot be imported."""
    from mistudio_cli.output import emit
    from mistudio_cli.sae_process import run_formats

    found = run_formats({"verb": "inspect", "path": _folder(source, home), "format": form})
    if as_json:
        emit(found)
    else:
        _show(found)
    if not found["importable"]:
        raise typer.Exit(1)


@app.command("import")
def import_sae(
    path: Annotated[Path, typer.Argument(help="Folder with the SAE's files.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Name of the imported SAE.", show_default=False)],
    form: Format = "auto",
    model: Annotated[
        str,
        typer.Option("--model", help="Language model it belongs to; default: what its files say.", show_default=False),
    ] = "",
    hook: Annotated[
        str,
        typer.Option(
            "--hook",
            help="Hook it reads, as blocks.3.hook_resid_post; default: what its files say.",
            show_default=False,
        ),
    ] = "",
    activations: Annotated[
        Path | None,
        typer.Option(
            "--activations", help="Activations of the hook (.npy, N x d) that it must explain.", show_default=False
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option("--targets", help="Transcoders: the activations it writes (.npy, N x d).", show_default=False),
    ] = None,
    max_fvu: Annotated[
        float, typer.Option("--max-fvu", help="Most variance of the activations left unexplained.", min=0.0)
    ] = 0.9,
    home: options.Home = None,
    as_json: options.Json = False,
) -> None:
    """Import an SAE; refused unless it computes what the library that made it does."""
    from mistudio_cli.output import emit, say
    from mistudio_cli.sae_process import run_formats

    target = _target(name, home)
    job = {"verb": "import", "path": path, "out": target, "format": form, "model": model, "hook": hook}
    found = run_formats({**job, "activations": activations, "targets": targets, "max_fvu": max_fvu})
    if as_json:
        emit({"name": name, "folder": str(target), **found})
        return
    _show(found)
    say(f"Imported as {name} ({target}).")


@app.command("export")
def export_sae(
    source: Annotated[
        str,
        typer.Argument(help="Training job, folder with an SAE, or the name of an imported one.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="New folder for the files.", show_default=False)],
    to: Annotated[str, typer.Option("--format", help=f"Layout to write: {_FORMATS}.", show_default=False)],
    which: Annotated[
        str, typer.Option("--sae", help="Which SAE of a job that made several, by its name.", show_default=False)
    ] = "",
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Write an SAE in another layout; refused where that cannot hold it."""
    from mistudio_cli.output import emit, say
    from mistudio_cli.sae_process import run_formats

    with tempfile.TemporaryDirectory(prefix="mistudio-sae-") as place:
        path = _fetched(source, which, Path(place), home, address) if _is_job(source) else _folder(source, home)
        found = run_formats({"verb": "export", "path": path, "out": out.absolute(), "to": to})
    if as_json:
        emit(found)
        return
    for file in found["files"]:
        say(file)


def _target(name: str, home: Path | None) -> Path:
    """Where an imported SAE goes. Raises InvalidInput."""
    from mistudio_core.home import Home

    if not name or name != Path(name).name or name.startswith("."):
        raise InvalidInput.field("name", name, "a name without slashes that does not begin with a dot")
    return Home.at(home).saes / name


def _folder(source: str, home: Path | None) -> Path:
    """A path that is there, or an imported SAE. Raises NotFound."""
    path = Path(source).expanduser().absolute()
    if path.exists():
        return path
    if source == Path(source).name and (imported := _target(source, home)).is_dir():
        return imported
    raise NotFound(f"There is no folder {source} and no imported SAE of this name.", reason="INVALID_FIELD")


def _is_job(source: str) -> bool:
    from mistudio_core.ids import service_of

    try:
        return not Path(source).exists() and service_of(source) == "train"
    except NotFound:
        return False


def _fetched(job_id: str, which: str, place: Path, home: Path | None, address: str | None) -> Path:
    """The files of a job's SAE, downloaded. Raises InvalidInput where it is not said which of several."""
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        artifact = _artifact(client, job_id, which)
        for file in artifact.files:
            client.download(f"{artifact.uri}/{file.name}", place / file.name)
    return place


def _artifact(client: Client, job_id: str, which: str) -> Any:
    from mistudio.artifact.v1 import artifact_pb2
    from mistudio.train.v1 import train_service_pb2

    result = client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))
    saes = {a.uri.rsplit("/", 1)[-1]: a for a in result.artifacts if a.kind == artifact_pb2.ARTIFACT_KIND_SAE}
    if not which and len(saes) == 1:
        return next(iter(saes.values()))
    if which not in saes:
        raise InvalidInput.field("sae", which, " or ".join(saes) or "nothing: the job made no SAE")
    return saes[which]


def _show(found: Mapping[str, Any]) -> None:
    """Facts, then notes."""
    from mistudio_cli.output import facts_table, say, show

    if "architecture" not in found:
        shapes = {name: f"{dtype} {shape}" for name, (dtype, shape) in found.get("tensors", {}).items()}
        show(facts_table({"format": found["format"], **shapes}))
        say(f"{found['reason']}: {found['problem']}")
        return
    show(facts_table({name: value for name, value in _facts(found).items() if value not in ("", None)}))
    for note in found["notes"]:
        say(f"Note: {note}")


def _facts(found: Mapping[str, Any]) -> dict[str, object]:
    sizes = f"{found['d_in']} -> {found['d_sae']} -> {found['d_out']}"
    near, fit = found["agreement"], found["fit"]
    return {
        "format": f"{found['format']}, {found['kind']}, {found['dtype']}",
        "architecture": found["architecture"] + (" with a skip map" if found["skip"] else ""),
        "sizes": sizes,
        "k": found["k"],
        "threshold": _range(found["threshold"]),
        "decoder norms": _range(found["decoder_norm"]),
        "model": found["model_name"],
        "hook": " -> ".join(hook for hook in (found["hook_name"], found["hook_name_out"]) if hook),
        "layer": found["layer"],
        "context size": found["context_size"],
        "data set": found["dataset"],
        "agreement": f"codes {near['codes_error']:.1e}, reconstruction {near['reconstruction_error']:.1e} (relative)",
        "activations": f"FVU {fit['fvu']:.4g}, L0 {fit['l0']:.1f} on {fit['rows']:,} rows" if fit else None,
    }


def _range(values: Mapping[str, float] | None) -> str | None:
    if values is None:
        return None
    low, middle, high = (f"{values[key]:.4g}" for key in ("min", "median", "max"))
    return low if low == high else f"{low} to {high}, median {middle}"
