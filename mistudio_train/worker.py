"""Train's worker entry: the request message in, the result message out."""

from __future__ import annotations

from mistudio.train.v1 import train_service_pb2

from mistudio_core.home import Home
from mistudio_core.jobs.context import JobContext
from mistudio_train import convert, job


def run(request: bytes, context: JobContext) -> bytes:
    """See mistudio_rpc.registry.JobRunner."""
    message = train_service_pb2.StartTrainingRequest.FromString(request)
    config = convert.config_of(message, Home.at())
    result = job.run(config, context)
    return convert.result_message(result).SerializeToString()
