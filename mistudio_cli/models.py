"""`mistudio models`: whether a model can be used and what it takes, and pickled models made safe.

`check` asks ValidateModel and CheckMemory and shows both answers; `convert` works on this machine's
model root, without a service.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio_cli import options
from mistudio_cli import train_options as o

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2

    from mistudio_rpc.client import Client

app = typer.Typer(help="Questions about language models.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Questions about language models."""


@app.command("check")
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Hugging Face id, folder, or package:<name>/<folder>; the recipe's own without it.",
            show_default=False,
        ),
    ] = None,
    recipe: o.Recipe = "published",
    granularity: o.Granularity = None,
    selectivity: o.Selectivity = None,
    layer_number: o.Layer = None,
    hook: o.Hook = None,
    hook_name: o.HookName = None,
    module_path: o.ModulePath = None,
    output_hook_name: o.OutputHook = None,
    sweep: o.Sweep = None,
    architecture: o.Architecture = None,
    hidden_dim: o.HiddenDim = None,
    k: o.K = None,
    batch_size: o.BatchSize = None,
    max_sequence_length: o.MaxLength = None,
    sae_batch_tokens: o.SaeBatch = None,
    dtype: o.Dtype = None,
    enable_4bit: o.FourBit = None,
    enable_8bit: o.EightBit = None,
    processes: o.Processes = None,
    token_budget: o.TokenBudget = None,
    gpu_id: o.GpuId = None,
    huggingface_token_file: options.TokenFile = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Say whether a model can be used, what a run holds by part and how long it takes; exit code 1 where it cannot."""
    given = dict(locals())  # parameters have the names of the request's fields
    from mistudio_cli.output import emit, message_json
    from mistudio_cli.plan_view import show_plan
    from mistudio_cli.session import connect

    request = memory_request(recipe, given)
    with connect(home, address) as client:
        valid = _validated(client, request, huggingface_token_file)
        usable = valid is None or valid.valid or request.HasField("shape")
        memory = client.train.CheckMemory(request) if usable else None
    if as_json:
        shown = {"validation": valid, "memory": memory}
        emit({name: None if found is None else message_json(found) for name, found in shown.items()})
    else:
        show_plan(valid, memory, recipe)
    if memory is None:
        raise typer.Exit(1)


def memory_request(name: str, given: Mapping[str, Any]) -> train_service_pb2.CheckMemoryRequest:
    """What is asked about: a recipe's settings and the options that replace them. Raises InvalidInput."""
    from mistudio.train.v1 import train_service_pb2, training_pb2

    from mistudio_cli.recipes import recipe, settings
    from mistudio_cli.requests import fill
    from mistudio_core.errors import InvalidInput

    values = settings(name, **{key: given.get(key) for key in ("granularity", "selectivity", "architecture")})
    own = recipe(name)
    chosen = {key: value for key, value in given.items() if value is not None}
    request = fill(train_service_pb2.CheckMemoryRequest(), {**values, **chosen})
    request.model_name = given.get("model") or own.model_name
    if not request.model_name:
        raise InvalidInput.field("model", "", "a model, or a recipe that names one", "See `mistudio recipes list`.")
    if own.shape is not None and request.model_name == own.model_name:
        request.shape.CopyFrom(fill(training_pb2.ModelShape(), own.shape))
    return request


def _validated(
    client: Client, request: train_service_pb2.CheckMemoryRequest, token_file: Path | None
) -> train_service_pb2.ValidateModelResponse | None:
    """The service's verdict on the model; None where the hub cannot be reached and a recipe knows the shape."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.session import huggingface_token
    from mistudio_core.errors import Unavailable

    question = train_service_pb2.ValidateModelRequest(model_name=request.model_name)
    secret = huggingface_token(token_file)
    if secret:
        question.huggingface_token = secret.reveal()
    try:
        return client.train.ValidateModel(question)
    except Unavailable as error:
        if error.reason != "HUB_UNAVAILABLE" or not request.HasField("shape"):
            raise
        return None


@app.command("hooks")
def hooks(
    model: Annotated[
        str, typer.Argument(help="Hugging Face id, folder, or package:<name>/<folder>.", show_default=False)
    ],
    layer_number: Annotated[
        int | None, typer.Option("--layer", help="Only hooks of this block, from 0.", min=0, show_default=False)
    ] = None,
    huggingface_token_file: options.TokenFile = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List where activations of a model can be read; with ".input" after a module, what goes into it is read."""
    from mistudio_cli.hooks import list_hooks
    from mistudio_cli.session import connect, huggingface_token

    with connect(home, address) as client:
        list_hooks(client, model, layer_number, huggingface_token(huggingface_token_file), as_json=as_json)


@app.command("convert")
def convert(
    source: Annotated[
        str, typer.Argument(help="Folder, or Hugging Face id, with pickled weights only.", show_default=False)
    ],
    name: Annotated[str, o.option("--name", "Name of the new model under the model root.", "the source's own")] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Longest time for one file, seconds.", min=1)] = 1800.0,
    huggingface_token_file: options.TokenFile = None,
    home: options.Home = None,
    as_json: options.Json = False,
) -> None:
    """Make safetensors of a pickled model, in a process that can do nothing but read tensors."""
    from mistudio_cli.conversion import run_conversion
    from mistudio_cli.output import emit, say
    from mistudio_cli.session import huggingface_token

    secret = huggingface_token(huggingface_token_file)
    done = run_conversion(
        source, name=name, timeout=timeout, home=home, token=secret, say=lambda text: say(text, stderr=True)
    )
    if as_json:
        emit({"converted": done})
    else:
        say(f"{done['tensors']} tensors converted. Use it as model_name {done['model_name']} ({done['folder']}).")
