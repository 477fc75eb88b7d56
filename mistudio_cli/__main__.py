"""The `mistudio` command: its verbs, and how errors end it.

Exit codes: 0 done, 1 an error (one message with its reason code), 2 wrong usage, 130 left with
Ctrl-C. Each verb imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from mistudio_cli import (
    audit,
    compare,
    corpora,
    demo,
    down,
    engines,
    explain,
    explanations,
    export,
    features,
    find,
    find_history,
    jobs,
    models,
    recipe_list,
    run,
    sae,
    serve,
    status,
    token,
    train,
    up,
    upload,
)
from mistudio_cli.output import emit, show_error
from mistudio_core.errors import InvalidInput, MistudioError


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"mistudio {version('mistudio')}")
        raise typer.Exit


def mistudio(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Open the black box of a language model: train, find and explain sparse features."""


def build() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(name="mistudio", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(mistudio)
    verbs = (up.up, down.down, status.status, demo.demo, run.run, upload.upload, train.train, find.find)
    for verb in (*verbs, explain.explain, export.export, compare.compare, token.token, serve.serve):
        app.command()(verb)
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(features.app, name="features")
    app.add_typer(explanations.app, name="explanations")
    app.add_typer(find_history.app, name="find-history")
    app.add_typer(models.app, name="models")
    app.add_typer(recipe_list.app, name="recipes")
    app.add_typer(corpora.app, name="corpora")
    app.add_typer(sae.app, name="sae")
    app.add_typer(engines.app, name="engines")
    app.add_typer(audit.app, name="audit")
    return app


def main() -> None:
    """Entry point of `mistudio` and `python -m mistudio_cli`."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Runs one command; its exit code."""
    as_json = "--json" in arguments
    try:
        result = _invoke(arguments, standalone=not as_json)
    except MistudioError as error:
        show_error(error, as_json=as_json)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a path of the person's that cannot be used
        show_error(_unusable(error), as_json=as_json)
        return 1
    return result


def _unusable(error: OSError) -> MistudioError:
    reason = "FORBIDDEN" if isinstance(error, PermissionError) else "INVALID_FIELD"
    return InvalidInput(f"{error.filename or 'a file'}: {error.strerror}. Choose another place.", reason=reason)


def _invoke(arguments: list[str], *, standalone: bool) -> int:
    try:
        result: Any = build()(args=arguments, prog_name="mistudio", standalone_mode=standalone)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if standalone or not hasattr(error, "format_message"):
            raise
        problem = {"detail": error.format_message(), "reason": "INVALID_FIELD", "metadata": {}}
        emit({"error": problem})
        return 2
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
