"""ListHooks over gRPC and through the command: every hook once, pages, one block, gated models, refusals."""

from __future__ import annotations

import asyncio
import json

import grpc.aio
import pytest
from mistudio.train.v1 import train_service_pb2 as train

from mistudio_cli.__main__ import run_command
from mistudio_core.errors import Forbidden, InvalidInput, NotFound
from mistudio_rpc.channel import open_channel
from mistudio_rpc.json_out import to_json
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.server import ServerConfig, running
from mistudio_rpc.status import from_rpc_error
from mistudio_train.service import TrainServicer
from tests.support import fakehub, tinymodels

SERVICE = "mistudio.train.v1.TrainService"


@pytest.fixture
async def list_hooks(home, tmp_path, monkeypatch):
    tiny = tinymodels.make(tmp_path / "tiny", "llama")
    tinymodels.make(home.models / "bert", "bert")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    entry = ServiceEntry(name="train", grpc_service=SERVICE, servicer=TrainServicer, worker="nobody:run")
    with fakehub.serve({"a/tiny": tiny, "a/gated": tiny}, gated={"a/gated": "hf_good"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        async with running(ServerConfig(home=home), [entry]), open_channel(home.control_target) as channel:
            method = channel.unary_unary(
                f"/{SERVICE}/ListHooks",
                train.ListHooksRequest.SerializeToString,
                train.ListHooksResponse.FromString,
            )
            metadata = (("authorization", f"Bearer {home.token().reveal()}"),)

            async def call(model="a/tiny", **fields):
                try:
                    request = train.ListHooksRequest(model_name=model, **fields)
                    return await method(request, timeout=30, metadata=metadata)
                except grpc.RpcError as error:
                    raise from_rpc_error(error) from error

            call.hub = hub
            yield call


async def test_hooks_of_a_hub_model_without_its_weights(list_hooks):
    reply = await list_hooks()
    names = [hook.name for hook in reply.hooks]
    assert len(names) == len(set(names)) == reply.total_hooks and not reply.next_page_token
    shown = {h["name"]: h for h in to_json(reply)["hooks"]}
    assert shown["blocks.2.hook_mlp_out"] == {
        "name": "blocks.2.hook_mlp_out",
        "kind": "mlp_out",
        "layer_number": 2,
        "width": 16,
        "module_path": "layers.2.mlp.down_proj",
    }
    assert shown["layers.0.mlp.gate_proj"]["width"] == 32 and "layer_number" not in shown["norm"]
    assert not list_hooks.hub.served("pytorch_model.bin")


async def test_one_block_and_pages(list_hooks):
    of_block = await list_hooks("bert", layer_number=1)
    assert {hook.layer_number for hook in of_block.hooks} == {1} and len(of_block.hooks) == of_block.total_hooks
    everything, token = [], ""
    while True:
        page = await list_hooks("bert", page_size=7, page_token=token)
        everything += [hook.name for hook in page.hooks]
        token = page.next_page_token
        if not token:
            break
        assert len(page.hooks) == 7
    assert everything == [hook.name for hook in (await list_hooks("bert")).hooks]
    assert {hook.name for hook in of_block.hooks} < set(everything)


async def test_refusals(list_hooks):
    for error, reason, arguments in (
        (NotFound, "MODEL_NOT_FOUND", {"model": "a/nothing"}),
        (Forbidden, "MODEL_GATED", {"model": "a/gated"}),
        (Forbidden, "MODEL_GATED", {"model": "a/gated", "huggingface_token": "hf_bad"}),
        (InvalidInput, "LAYER_OUT_OF_RANGE", {"layer_number": 3}),
        (InvalidInput, "INVALID_FIELD", {"page_token": "x"}),
        (InvalidInput, "INVALID_FIELD", {"model": ""}),
    ):
        with pytest.raises(error) as refusal:
            await list_hooks(**arguments)
        assert refusal.value.reason == reason, arguments
    assert (await list_hooks("a/gated", huggingface_token="hf_good")).total_hooks


@pytest.mark.parametrize("as_json", (True, False))
async def test_the_command_prints_them(list_hooks, home, capfd, as_json):
    arguments = ["models", "hooks", "bert", "--layer", "2", "--address", home.control_target]
    code = await asyncio.to_thread(run_command, arguments + ["--json"] * as_json)
    printed = capfd.readouterr().out
    assert code == 0, printed
    if as_json:
        hooks = json.loads(printed)["hooks"]
        assert hooks[3]["name"] == "blocks.2.hook_resid_post" and hooks[3]["kind"] == "resid_post"
    else:
        assert "encoder.layer.2.output.dense" in printed and "18 hooks" in printed
