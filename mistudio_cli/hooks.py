"""What `mistudio models hooks` prints: the hooks of a model, page by page, as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio.train.v1 import training_pb2

    from mistudio_core.secret import Secret
    from mistudio_rpc.client import Client

_PAGE = 5000


def list_hooks(client: Client, model: str, layer: int | None, token: Secret | None, *, as_json: bool) -> None:
    """Prints every hook of a model, or of one block."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import emit, message_json, say, show, table

    request = train_service_pb2.ListHooksRequest(model_name=model, layer_number=layer, page_size=_PAGE)
    if token:
        request.huggingface_token = token.reveal()
    found: list[training_pb2.ModelHook] = []
    while True:
        page = client.train.ListHooks(request)
        found += page.hooks
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if as_json:
        emit({"model_name": model, "hooks": [message_json(hook) for hook in found]})
        return
    rows = [(h.name, h.layer_number if h.HasField("layer_number") else "", h.width or "", h.module_path) for h in found]
    if rows:
        show(table(f"Hooks of {model}", ("hook", "layer", "width", "module"), rows, right=("layer", "width")))
    say(f"{len(rows)} hooks")
