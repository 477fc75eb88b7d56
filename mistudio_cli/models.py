"""`mistudio models check`: whether a model can be used here, without loading its weights.

Asks ValidateModel and CheckMemory, and shows both answers as one table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2

app = typer.Typer(help="Questions about language models.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Questions about language models."""


@app.command("check")
def check(
    model: Annotated[
        str, typer.Argument(help="Hugging Face id, folder, or package:<name>/<folder>.", show_default=False)
    ],
    huggingface_token_file: options.TokenFile = None,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Say whether a model can be used and what memory it needs; exit code 1 where it cannot."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import emit, message_json
    from mistudio_cli.session import connect, huggingface_token

    request = train_service_pb2.ValidateModelRequest(model_name=model)
    secret = huggingface_token(huggingface_token_file)
    if secret:
        request.huggingface_token = secret.reveal()
    with connect(home, address) as client:
        valid = client.train.ValidateModel(request)
        memory = (
            client.train.CheckMemory(train_service_pb2.CheckMemoryRequest(model_name=model)) if valid.valid else None
        )
    if as_json:
        emit({"validation": message_json(valid), "memory": None if memory is None else message_json(memory)})
    else:
        _show(valid, memory)
    if not valid.valid:
        raise typer.Exit(1)


def _show(valid: train_service_pb2.ValidateModelResponse, memory: train_service_pb2.CheckMemoryResponse | None) -> None:
    from mistudio_cli.output import facts_table, show, table

    facts: dict[str, object] = {
        "model": valid.model_name,
        "usable": "yes" if valid.valid else f"no: {valid.reason}: {valid.message}",
        "accessible": _yes(valid.accessible),
        "needs a token": _yes(valid.requires_token),
    }
    if valid.HasField("model_info"):
        shape = valid.model_info
        facts |= {
            "architecture": shape.architecture,
            "layers": f"{shape.total_layers} (0 to {shape.total_layers - 1})",
            "hidden size": shape.hidden_size,
            "vocabulary": shape.vocab_size,
        }
    if memory is None:
        show(facts_table(facts))
        return
    found, advice = memory.memory_check, memory.optimization_suggestions
    enough = "enough" if found.sufficient else "not enough"
    facts |= {
        "memory": f"{found.required_gb:.2f} GB needed, {found.available_gb:.2f} GB free: {enough}",
        "suggested": f"batch size {advice.batch_size}, sequences of {advice.max_sequence_length} tokens",
    }
    show(facts_table(facts))
    rows = [
        (name, _yes(gpu.compatible), _yes(gpu.memory_sufficient), _yes(gpu.recommended))
        for name, gpu in sorted(memory.gpu_compatibility.items())
    ]
    if rows:
        show(table("GPUs", ("gpu", "compatible", "memory", "recommended"), rows))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
