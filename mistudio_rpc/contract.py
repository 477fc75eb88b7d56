"""The contract as data: every RPC with its messages, policy and HTTP rules, read from descriptors.

Server, gateway, clients and tests all read this one view, so that an RPC written once in a .proto
appears everywhere. Finds our services by walking the generated `mistudio` package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import mistudio
from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import (
    Descriptor,
    EnumValueDescriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message
from mistudio.artifact.v1 import artifact_pb2
from mistudio.contract.v1 import options_pb2

_CHUNK = artifact_pb2.Chunk.DESCRIPTOR.full_name
_HEADER = artifact_pb2.DownloadHeader.DESCRIPTOR.full_name


@dataclass(frozen=True)
class Method:
    """One RPC."""

    descriptor: MethodDescriptor
    """Its descriptor."""

    @property
    def name(self) -> str:
        """Short name, for example `StartTraining`."""
        return self.descriptor.name

    @property
    def service(self) -> str:
        """Full name of its service, for example `mistudio.train.v1.TrainService`."""
        return self.descriptor.containing_service.full_name

    @property
    def path(self) -> str:
        """What travels on the wire: `/<service>/<name>`."""
        return f"/{self.service}/{self.name}"

    @property
    def owner(self) -> str:
        """The part of the platform that serves it: `train`, `job`, `artifact`, ..."""
        return self.service.split(".")[1]

    @cached_property
    def request_class(self) -> type[Message]:
        """Class of its request message."""
        return message_factory.GetMessageClass(self.descriptor.input_type)

    @cached_property
    def response_class(self) -> type[Message]:
        """Class of its response message."""
        return message_factory.GetMessageClass(self.descriptor.output_type)

    @property
    def client_streaming(self) -> bool:
        """Whether the caller sends a stream."""
        return self.descriptor.client_streaming

    @property
    def server_streaming(self) -> bool:
        """Whether the server sends a stream."""
        return self.descriptor.server_streaming

    @cached_property
    def policy(self) -> options_pb2.MethodPolicy | None:
        """Its declared policy; None where the .proto forgot it."""
        options = self.descriptor.GetOptions()
        if not options.HasExtension(options_pb2.policy):
            return None
        return options.Extensions[options_pb2.policy]

    @property
    def reserved(self) -> str | None:
        """What to do instead of calling an RPC that this release does not honour; None where it does."""
        if self.policy is None or not self.policy.HasField("reserved"):
            return None
        return str(self.policy.reserved.instead)

    @property
    def is_internal(self) -> bool:
        """Whether only worker processes or other services may call it."""
        internal = (options_pb2.ACCESS_LEVEL_WORKER, options_pb2.ACCESS_LEVEL_SERVICE)
        return self.policy is not None and self.policy.access in internal

    @cached_property
    def http_rules(self) -> tuple[http_pb2.HttpRule, ...]:
        """Its google.api.http rules, the main one first; empty for none."""
        options = self.descriptor.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            return ()
        rule = options.Extensions[annotations_pb2.http]
        return (rule, *rule.additional_bindings)

    @property
    def receives_chunks(self) -> bool:
        """Whether its request stream is the bytes of a file."""
        return self.client_streaming and chunk_field(self.descriptor.input_type) is not None

    @property
    def sends_chunks(self) -> bool:
        """Whether its response stream is the bytes of a file."""
        return self.server_streaming and chunk_field(self.descriptor.output_type) is not None


def chunk_field(message: Descriptor) -> FieldDescriptor | None:
    """The field of a streamed message that carries a run of a file's bytes; None for none."""
    return next((f for f in message.fields if f.message_type and f.message_type.full_name == _CHUNK), None)


def header_field(message: Descriptor) -> FieldDescriptor | None:
    """The field of a streamed message that says what file its chunks are; None for none."""
    chunk = chunk_field(message)
    if chunk is None:
        return None
    return next((f for f in message.fields if f.message_type and f is not chunk), None)


class Contract:
    """A set of RPCs."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        """The services of the given .proto files."""
        self.services: dict[str, ServiceDescriptor] = {}
        self.methods: dict[str, Method] = {}
        for file in files:
            for service in file.services_by_name.values():
                self.services[service.full_name] = service
                for descriptor in service.methods:
                    method = Method(descriptor)
                    self.methods[method.path] = method

    def __iter__(self) -> Iterator[Method]:
        """Every RPC, in a stable order."""
        return iter(sorted(self.methods.values(), key=lambda m: m.path))

    def of_service(self, full_name: str) -> list[Method]:
        """The RPCs of one service."""
        return [m for m in self if m.service == full_name]


@lru_cache(maxsize=1)
def installed() -> Contract:
    """Every service of the generated `mistudio` package."""
    modules = (m.name for m in pkgutil.walk_packages(mistudio.__path__, "mistudio."))
    return Contract(importlib.import_module(name).DESCRIPTOR for name in modules if name.endswith("_service_pb2"))


def reserved_field(field: FieldDescriptor) -> str | None:
    """What to do instead of setting a field that this release does not honour; None where it does."""
    options = field.GetOptions()
    if not options.HasExtension(options_pb2.reserved_field):
        return None
    return str(options.Extensions[options_pb2.reserved_field].instead)


def reserved_value(value: EnumValueDescriptor) -> str | None:
    """What to do instead of an enum value that this release does not honour; None where it does."""
    options = value.GetOptions()
    if not options.HasExtension(options_pb2.reserved_value):
        return None
    return str(options.Extensions[options_pb2.reserved_value].instead)


def enum_prefix(value: EnumValueDescriptor) -> str:
    """The prefix that buf asks of every value of an enum: `JOB_STATUS_`."""
    zero = value.type.values[0].name
    return zero.removesuffix("UNSPECIFIED")


def short_name(value: EnumValueDescriptor) -> str:
    """The name that JSON, CLI and messages show: `JOB_STATUS_RUNNING` -> `running`."""
    return value.name.removeprefix(enum_prefix(value)).lower()
