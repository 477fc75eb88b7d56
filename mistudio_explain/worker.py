"""Explain's worker entry: the request message in, the result message out."""

from __future__ import annotations

from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.home import Home
from mistudio_core.jobs.context import JobContext
from mistudio_explain import convert, job
from mistudio_explain.engines.settings import load_engines


def run(request: bytes, context: JobContext) -> bytes:
    """See mistudio_rpc.registry.JobRunner."""
    config = convert.config_of(explain_service_pb2.StartExplainRequest.FromString(request))
    home = Home.at()
    engines = load_engines(home.engines_file)
    return convert.result_message(job.run(config, context, engines, home)).SerializeToString()
