"""From a request to the job that it asks for: everything that can be checked before a job exists.

A training job must have completed or be waited for; an imported SAE's model, hook, corpus and files must be
there. Reads configs and headers, never weights. No torch in this process.
"""

from __future__ import annotations

import asyncio
import functools

from mistudio.find.v1 import find_service_pb2

from mistudio_core.jobs.corpora import corpus_reference
from mistudio_core.jobs.records import COMPLETED, InputReference, JobRecord, NewJob
from mistudio_core.secret import Secret
from mistudio_find import convert, imported_source, redact, rulebook
from mistudio_find.config import FindConfig
from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime, not_ready
from mistudio_torch.lm.hookable import inspect_hooks
from mistudio_torch.lm.hookpoints import parse_hook

SERVICE = "find"
TOKEN = "huggingface_token"  # noqa: S105  the name of a secret, not one


async def start(runtime: Runtime, request: find_service_pb2.StartFindRequest) -> JobRecord:
    """The job of a request, new or the one that the same request started before. Raises as the contract says."""
    token = Secret(request.huggingface_token)
    asked_for = find_service_pb2.StartFindRequest.FromString(request.SerializeToString())
    request.huggingface_token = ""
    earlier = await runtime.started(SERVICE, request)
    if earlier is not None:
        return earlier
    config = convert.config_of(asked_for, runtime.home)
    if config.evidence_text == "redacted":
        await asyncio.to_thread(redact.load, config.rules_root)
    if config.rules:
        await asyncio.to_thread(rulebook.load_rules, config.rules, config.rules_root)
    if config.sae_uri:
        new = await _of_import(runtime, request, config, token)
        job, _fresh = await runtime.start_job(new, secrets={TOKEN: token})
        return job
    training = await runtime.queries.get(config.training_job_id, "train")
    if training.status != COMPLETED and (training.is_terminal or not request.wait_for_training):
        raise not_ready(training)
    job, _fresh = await runtime.start_job(await _of_training(runtime, request, training), wait_for=training)
    return job


async def _of_training(runtime: Runtime, request: find_service_pb2.StartFindRequest, training: JobRecord) -> NewJob:
    inputs = {
        kind: InputReference(job_id=training.job_id, kind=kind, name=request.sae_name)
        for kind in ("codes", "metadata", "sae")
    }
    if training.status == COMPLETED:
        inputs["sae"].chosen(await runtime.queries.artifacts_of(training.job_id, "sae"))
    return NewJob(
        service=SERVICE,
        request=request.SerializeToString(deterministic=True),
        request_id=request.request_id,
        model_name=training.model_name,
        inputs=inputs,
    )


async def _of_import(
    runtime: Runtime, request: find_service_pb2.StartFindRequest, config: FindConfig, token: Secret
) -> NewJob:
    body_sha256 = messages.body_sha256(request)
    inputs = {"corpus": await corpus_reference(runtime.queries, config.corpus_file)}
    if imported_source.is_artifact(config.sae_uri):
        record = await runtime.queries.artifact(config.sae_uri)
        inputs["origin"] = InputReference(uri=record.uri, sha256=record.sha256)
    elif imported_source.is_hub(config.sae_uri):
        # what a later attempt reads must be the same
        request.sae_uri = await asyncio.to_thread(imported_source.pinned, config.sae_uri, token or None)
    else:
        await asyncio.to_thread(imported_source.local, config.sae_uri, config.model_root, config.sae_root)
    ask = functools.partial(inspect_hooks, config.model_name, token=token or None, model_root=config.model_root)
    catalogue = await asyncio.to_thread(ask)
    if config.hook_name:
        catalogue.check(parse_hook(config.hook_name))
    return NewJob(
        service=SERVICE,
        request=request.SerializeToString(deterministic=True),
        request_id=request.request_id,
        body_sha256=body_sha256,
        model_name=config.model_name,
        inputs=inputs,
    )
