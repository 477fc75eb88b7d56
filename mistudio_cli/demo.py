"""`mistudio demo`: from a real model and a real text to an explained feature report, in one command.

It uses what runs on the home; where nothing does, it starts miStudio in a home of its own for the
time of the demo.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options
from mistudio_cli.recipes import DEMO_LAYER, DEMO_MODEL
from mistudio_core import clock
from mistudio_core.home import Home, default_root

if TYPE_CHECKING:
    from mistudio_cli.pipeline import Pipeline, Results
    from mistudio_rpc.client import Client

CORPUS = "python_docstrings.txt"
_FILES = {"report.html": "html", "feature_explanations.json": "json"}


def demo(
    model: Annotated[str, typer.Option("--model", help="Model to explain.")] = DEMO_MODEL,
    corpus: Annotated[
        str, typer.Option("--corpus", help="Text file; default: Python's own docstrings.", show_default=False)
    ] = "",
    layer: Annotated[int, typer.Option("--layer", help="Block whose residual stream is read, from 0.")] = DEMO_LAYER,
    output: Annotated[Path, typer.Option("--output", help="Folder for the report and the explanations.")] = Path(),
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave miStudio up afterwards.")] = False,
    huggingface_token_file: options.TokenFile = None,
    home: options.Home = None,
    as_json: options.Json = False,
) -> None:
    """Run the whole pipeline on a small model and text, and show the ten best features."""
    from mistudio_cli import pipeline
    from mistudio_cli.flow import to_the_end
    from mistudio_cli.session import connect
    from mistudio_cli.summary import BEST

    started = clock.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    with _running(home, output, keep_running=keep_running, quiet=as_json) as place, connect(place.root) as client:
        made = _submit(client, model, corpus, layer, output, huggingface_token_file)
        _announce(made, quiet=as_json)
        to_the_end(client, made.jobs(), home=place.root, as_json=as_json)
        results = pipeline.results(client, made, best=BEST)
        files = _save(client, made, output)
        seconds = _seconds(client, made) | {"everything": clock.monotonic() - started}
    _show(results, files, seconds, as_json=as_json)


@contextmanager
def _running(home: Path | None, output: Path, *, keep_running: bool, quiet: bool) -> Iterator[Home]:
    """A home on which miStudio runs; one started here is stopped, unless the person left the watch."""
    from mistudio_cli import supervisor
    from mistudio_cli.down import stop
    from mistudio_cli.output import say
    from mistudio_cli.supervisor import UpConfig
    from mistudio_cli.up import start_detached

    place = Home((home or default_root()).expanduser().resolve())
    if supervisor.running(place):
        start_detached(UpConfig(home=place))
        yield place
        return
    own = Home.at(home if home is not None else output / "demo" / "home")
    found = start_detached(UpConfig(home=own, http="127.0.0.1:0", grpc="127.0.0.1:0"))
    if not quiet:
        say(f"miStudio runs for the demo at {found.url} (gRPC {found.grpc}), home {own.root}")
    left = False
    try:
        yield own
    except typer.Exit:  # Ctrl-C left the watch: the jobs go on
        left = True
        raise
    finally:
        if left or keep_running:
            say(f"miStudio goes on. Stop it: mistudio down --home {own.root}", stderr=True)
        else:
            stop(own)


def _submit(client: Client, model: str, corpus: str, layer: int, output: Path, token_file: Path | None) -> Pipeline:
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli import pipeline
    from mistudio_cli.docstrings import write_corpus
    from mistudio_cli.output import say
    from mistudio_cli.train import training_request

    if not corpus:
        path = output / "demo" / CORPUS
        count = write_corpus(path)
        say(f"Text: {count} docstrings of Python's standard library", stderr=True)
        corpus = str(path)
    values = {"model_name": model, "layer_number": layer, "corpus_file": pipeline.corpus_name(client, corpus)}
    training = training_request("demo", values, token_file)
    return pipeline.submit(
        client, training, find_service_pb2.StartFindRequest(), explain_service_pb2.StartExplainRequest()
    )


def _announce(made: Pipeline, *, quiet: bool) -> None:
    from mistudio_cli.output import emit, say

    if quiet:
        emit({"started": made.ids()})
    else:
        say(f"Jobs {made.train}, {made.find}, {made.explain}: {made.message}")


def _save(client: Client, made: Pipeline, output: Path) -> dict[str, Path]:
    from mistudio_cli.export import save_export

    return {name: save_export(client, "explain", made.explain, form, output / name) for name, form in _FILES.items()}


def _seconds(client: Client, made: Pipeline) -> dict[str, float]:
    """How long each job ran, from its first attempt to its end."""
    from mistudio.job.v1 import job_service_pb2

    seconds = {}
    for title, job_id in made.jobs():
        job = client.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id)).job
        seconds[title] = (job.completed_at.ToNanoseconds() - job.started_at.ToNanoseconds()) / 1e9
    return seconds


def _show(results: Results, files: dict[str, Path], seconds: dict[str, float], *, as_json: bool) -> None:
    from mistudio_cli.output import emit, facts_table, message_json, seconds_text, show
    from mistudio_cli.summary import best_json, best_table

    stats = results.train.training_stats
    if as_json:
        report: dict[str, Any] = {
            "result": {name: message_json(getattr(results, name)) for name in ("train", "find", "explain")},
            "best_features": best_json(results.best),
            "explained_variance": stats.explained_variance,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "files": {name: str(path) for name, path in files.items()},
        }
        emit(report)
        return
    show(best_table(results.best))
    facts: dict[str, object] = {
        "explained variance": f"{stats.explained_variance:.3f} (held-out text, L0 {stats.l0:.1f})",
        "features": f"{results.find.total_features}, {results.find.live_features} live; "
        f"{results.explain.total_features_processed} explained by {results.explain.engine}",
        "mean quality": f"{results.explain.summary_insights.explanation_quality_average:.3f}",
        "time": ", ".join(f"{name} {seconds_text(value)}" for name, value in seconds.items()),
    }
    facts |= {name: path.resolve() for name, path in files.items()}
    show(facts_table(facts))
