"""`mistudio jobs`: list, get, watch and cancel jobs of every service.

What a watch shows is in `render.py`; how it is left with Ctrl-C in `watching.py`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_core.errors import InvalidInput

if TYPE_CHECKING:
    from mistudio.job.v1 import job_pb2

    from mistudio_rpc.client import Client

SERVICES = ("train", "find", "explain")
app = typer.Typer(help="List, show, watch and cancel jobs.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False)]


@app.command("list")
def list_jobs(
    service: Annotated[
        str | None, typer.Option("--service", help="Only train, find or explain; default: all.", show_default=False)
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only jobs in this state, e.g. running.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most jobs.")] = 20,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    from mistudio_cli.output import emit, message_json, show, table
    from mistudio_cli.session import connect

    if service is not None and service not in SERVICES:
        raise InvalidInput.field("service", service, ", ".join(SERVICES))
    with connect(home, address) as client:
        found = [job for name in ([service] if service else SERVICES) for job in _page(client, name, status, limit)]
    found = sorted(found, key=lambda job: job.created_at.ToNanoseconds(), reverse=True)[:limit]
    if as_json:
        emit({"jobs": [message_json(job) for job in found]})
        return
    columns = ("job", "status", "progress", "model", "note")
    show(table("", columns, [_row(job) for job in found], right=("progress",)))


@app.command("get")
def get(
    job_id: JobId, home: options.Home = None, address: options.Address = None, as_json: options.Json = False
) -> None:
    """Show one job."""
    from mistudio.job.v1 import job_service_pb2

    from mistudio_cli.session import connect
    from mistudio_cli.summary import show_result

    with connect(home, address) as client:
        job = client.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id)).job
        _show(job, as_json=as_json)
        if not as_json:
            show_result(client, job_id)


@app.command("watch")
def watch(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of the jobs.", show_default=False)],
    after: Annotated[int, typer.Option("--after", min=0, help="Only durable events after this sequence.")] = 0,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Watch jobs until they end; Ctrl-C leaves the watch, not the jobs."""
    from mistudio_cli.flow import to_the_end
    from mistudio_cli.session import connect
    from mistudio_cli.summary import show_result
    from mistudio_core.ids import service_of

    named = [(service_of(job_id), job_id) for job_id in dict.fromkeys(job_ids)]
    with connect(home, address) as client:
        try:
            to_the_end(client, named, home=home, as_json=as_json, after=after)
        finally:
            if not as_json and sys.exc_info()[0] is not typer.Exit:
                for _, job_id in named:
                    show_result(client, job_id)


@app.command("cancel")
def cancel(
    job_id: JobId, home: options.Home = None, address: options.Address = None, as_json: options.Json = False
) -> None:
    """Ask a job to stop."""
    from mistudio.job.v1 import job_service_pb2

    from mistudio_cli.jobview import status_name
    from mistudio_cli.output import say
    from mistudio_cli.session import connect

    with connect(home, address) as client:
        ended = client.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id)).job.HasField("completed_at")
        job = client.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id)).job
    if ended and not as_json:
        say(f"The job is {status_name(job.status)} already; nothing to cancel.")
        return
    _show(job, as_json=as_json)


def _page(client: Client, service: str, status: str | None, limit: int) -> list[job_pb2.Job]:
    from mistudio.job.v1 import job_service_pb2

    from mistudio_cli.requests import fill

    request = fill(job_service_pb2.ListJobsRequest(service=service, page_size=limit), {"status": status})
    return list(client.jobs.ListJobs(request).jobs)


def _row(job: job_pb2.Job) -> tuple[object, ...]:
    from mistudio_cli.jobview import status_name

    note = job.error.reason if job.HasField("error") else job.queue_reason or job.progress.stage
    return (job.job_id, status_name(job.status), f"{job.progress.fraction:.0%}", job.model_name, note)


def _show(job: job_pb2.Job, *, as_json: bool) -> None:
    from mistudio_cli.jobview import status_name
    from mistudio_cli.output import emit_message, facts_table, seconds_text, show

    if as_json:
        emit_message(job)
        return
    stopping = job.cancel_requested and not job.HasField("completed_at")
    facts: dict[str, object] = {
        "job": job.job_id,
        "status": status_name(job.status) + (", cancel requested" if stopping else ""),
        "progress": f"{job.progress.fraction:.0%}  {job.progress.stage}  {job.progress.message}".rstrip(),
        "model": job.model_name,
        "created": job.created_at.ToJsonString(),
    }
    if job.progress.HasField("estimated_time_remaining"):
        facts["remaining"] = seconds_text(job.progress.estimated_time_remaining)
    if job.metrics.values:
        facts["figures"] = ", ".join(f"{v.name} {v.value:.4g}" for v in job.metrics.values)
    extra = {"why it waits": job.queue_reason, "device": job.device, "checkpoint": job.last_checkpoint}
    facts |= {name: value for name, value in extra.items() if value}
    if job.HasField("error"):
        facts["error"] = f"{job.error.reason}: {job.error.message}"
    show(facts_table(facts))
