"""Names for grpc's generic types, which the type checker knows as generic and the interpreter does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import grpc
    import grpc.aio

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    MethodHandler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Context = Any
    MethodHandler = Any
