"""A new RPC, written once as a descriptor, is in gRPC, REST and OpenAPI without a line of gateway code."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from buf.validate import validate_pb2
from gateway_backend import client_of, running_gateway
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, timestamp_pb2
from mistudio.contract.v1 import options_pb2

from gateway.binding import bindings
from mistudio_core.errors import Internal
from mistudio_rpc.contract import Contract

F = descriptor_pb2.FieldDescriptorProto


def message(file: Any, name: str, *fields: tuple[str, int, str]) -> Any:
    made = file.message_type.add(name=name)
    for number, (field, kind, type_name) in enumerate(fields, 1):
        made.field.add(name=field, number=number, type=kind, type_name=type_name or None, label=F.LABEL_OPTIONAL)
    return made


def rpc(
    service: Any, name: str, request: str, reply: str, path: str, *, stream: bool = False, policy: bool = True
) -> None:
    made = service.method.add(
        name=name, input_type=f".{PACKAGE}.{request}", output_type=f".{PACKAGE}.{reply}", server_streaming=stream
    )
    made.options.Extensions[annotations_pb2.http].get = path
    if policy:
        made.options.Extensions[options_pb2.policy].access = options_pb2.ACCESS_LEVEL_PUBLIC


PACKAGE = "mistudio.scratch.v1"


def scratch(*, policy: bool = True, path: str = "/api/v1/scratch/{name}/double") -> Contract:
    file = descriptor_pb2.FileDescriptorProto(name="scratch_service.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    colors = file.enum_type.add(name="Color")
    for number, name in enumerate(("COLOR_UNSPECIFIED", "COLOR_RED")):
        colors.value.add(name=name, number=number)
    ask = message(
        file,
        "AskRequest",
        ("name", F.TYPE_STRING, ""),
        ("number", F.TYPE_UINT64, ""),
        ("color", F.TYPE_ENUM, f".{PACKAGE}.Color"),
        ("raw", F.TYPE_BYTES, ""),
        ("share", F.TYPE_FLOAT, ""),
        ("after_sequence", F.TYPE_INT64, ""),
    )
    ask.field[1].options.Extensions[validate_pb2.field].uint64.lte = 10
    when = (("time", F.TYPE_MESSAGE, ".google.protobuf.Timestamp"), ("sequence", F.TYPE_INT64, ""))
    message(file, "AskResponse", *[(f.name, f.type, f.type_name) for f in ask.field], *when)
    service = file.service.add(name="ScratchService")
    rpc(service, "Ask", "AskRequest", "AskResponse", path, policy=policy)
    rpc(service, "Follow", "AskRequest", "AskResponse", "/api/v1/scratch/events", stream=True)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return Contract([pool.FindFileByName("scratch_service.proto")])


class Scratch(grpc.GenericRpcHandler):
    def __init__(self, contract: Contract) -> None:
        self.methods = contract.methods

    def service(self, details: Any) -> Any:
        method = self.methods[details.method]
        codec = {
            "request_deserializer": method.request_class.FromString,
            "response_serializer": method.response_class.SerializeToString,
        }

        async def ask(request: Any, context: Any) -> Any:
            fields = {f.name: value for f, value in request.ListFields()}
            return method.response_class(**{**fields, "number": request.number * 2})

        async def follow(request: Any, context: Any) -> Any:
            for sequence in range(request.after_sequence + 1, 4):
                yield method.response_class(sequence=sequence)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(follow, **codec)
        return grpc.unary_unary_rpc_method_handler(ask, **codec)


@pytest.fixture
async def gateway():
    contract = scratch()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Scratch(contract),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with running_gateway(f"127.0.0.1:{port}", contract) as running:
        yield running
    await server.stop(0)


async def test_rest(gateway: Any) -> None:
    async with client_of(gateway) as client:
        reply = await client.get("/api/v1/scratch/a%2Fb/double?number=9007199254740993&color=red&raw=AAE=&share=0.1")
        assert reply.json() == {
            "name": "a/b",
            "number": 2 * 9007199254740993,
            "color": "red",
            "raw": "AAE=",
            "share": 0.1,
            "after_sequence": 0,
            "sequence": 0,
        }
        events = (await client.get("/api/v1/scratch/events", headers={"last-event-id": "1"})).text
        assert [line for line in events.split("\n") if line.startswith("id")] == ["id: 2", "id: 3"]
        assert (await client.get("/api/v1/train")).status_code == 404


async def test_grpc(gateway: Any) -> None:
    contract = scratch()
    ask, follow = (contract.methods[f"/{PACKAGE}.ScratchService/{n}"] for n in ("Ask", "Follow"))
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        reply = await channel.unary_unary(ask.path)(ask.request_class(number=4).SerializeToString())
        assert ask.response_class.FromString(reply).number == 8
        stream = channel.unary_stream(follow.path)(follow.request_class().SerializeToString())
        assert [follow.response_class.FromString(m).sequence async for m in stream] == [1, 2, 3]


async def test_openapi(gateway: Any) -> None:
    async with client_of(gateway) as client:
        document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {"/api/v1/scratch/{name}/double", "/api/v1/scratch/events"}
    ask = document["paths"]["/api/v1/scratch/{name}/double"]["get"]
    number = next(p for p in ask["parameters"] if p["name"] == "number")
    assert number["in"] == "query" and number["schema"]["maximum"] == 10 and ask["security"] == []
    assert "scratch.v1.AskResponse" in document["components"]["schemas"]


@pytest.mark.parametrize("settings", [{"policy": False}, {"path": "/x/{name=a/*}"}, {"path": "/x/{nothing}"}])
def test_what_cannot_be_served_stops_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(Internal, match="ScratchService/Ask"):
        bindings(scratch(**settings))
