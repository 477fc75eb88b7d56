"""`mistudio explanations stream`: one explanation while it is written; nothing is stored."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import options
from mistudio_cli.text import plain
from mistudio_cli.train_options import option


def stream(
    find_job_id: Annotated[str, typer.Argument(help="The Find job.", show_default=False)],
    feature_id: Annotated[int, typer.Argument(help="Index of the feature.", min=0, show_default=False)],
    engine: Annotated[str | None, option("--engine", "Engine by its name.", "the configured one, else lexical")] = None,
    model: Annotated[str | None, option("--engine-model", "Model of the engine.", "the engine's own")] = None,
    strategy: Annotated[str | None, option("--strategy", "How evidence is put.", "top_and_contrast")] = None,
    audience: Annotated[str | None, option("--audience", "Whom it is for.", "engineer")] = None,
    seed: Annotated[int | None, option("--seed", "Seed, passed to the engine.", "0")] = None,
    budget_usd: Annotated[float | None, option("--budget-usd", "Most to spend, US dollars.", "0")] = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Explain one feature and show the text as it is written; Ctrl-C ends the engine's work."""
    given = dict(locals())  # parameters have the names of the request's fields
    import grpc
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit_message, facts_table, say, show
    from mistudio_cli.requests import fill
    from mistudio_cli.reviews import facts
    from mistudio_cli.session import connect
    from mistudio_rpc.status import from_rpc_error

    request = fill(explain_service_pb2.ExplainFeatureRequest(), given)
    with connect(home, address) as client:
        call = client.explain.ExplainFeature(request)
        try:
            for part in call:
                if as_json:
                    emit_message(part)
                elif part.WhichOneof("part") == "text":
                    typer.echo(_shown(part.text), nl=False)
                else:
                    say("")
                    shown = facts(part.explanation)
                    shown.pop("explanation", None)
                    show(facts_table(shown))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()


def _shown(piece: str) -> str:
    """A piece without signs that steer a terminal; the blanks at its ends belong to the text."""
    lead = " " if piece[:1].isspace() else ""
    tail = " " if piece[-1:].isspace() and piece.strip() else ""
    return f"{lead}{plain(piece)}{tail}"
