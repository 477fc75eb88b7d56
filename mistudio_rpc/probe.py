"""`python -m mistudio_rpc.probe HOST:PORT [NAME]`: asks a health-only listener, for the health check of a container.

Exit code 0 where it serves, 1 where it does not or nothing answers, 2 for wrong usage.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SECONDS = 3.0


def serves(address: str, name: str = "") -> bool:
    """Whether the listener says that `name` serves; the empty name asks about the process."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> int:
    """The exit code."""
    arguments = sys.argv[1:]
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m mistudio_rpc.probe HOST:PORT [NAME]\n")
        return 2
    return 0 if serves(*arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
