"""Find's worker entry: the request message in, the result message out."""

from __future__ import annotations

from mistudio.find.v1 import find_service_pb2

from mistudio_core.home import Home
from mistudio_core.jobs.context import JobContext
from mistudio_find import convert, job


def run(request: bytes, context: JobContext) -> bytes:
    """See mistudio_rpc.registry.JobRunner."""
    config = convert.config_of(find_service_pb2.StartFindRequest.FromString(request), Home.at())
    return convert.result_message(job.run(config, context)).SerializeToString()
