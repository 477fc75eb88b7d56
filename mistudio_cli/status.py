"""`mistudio status`: what runs on a home, where, and how it is.

Processes come from the record of `mistudio up`, everything else from the services themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mistudio_cli import endpoints, options
from mistudio_core.errors import MistudioError
from mistudio_core.home import Home

if TYPE_CHECKING:
    from mistudio_rpc.client import Client

_SECONDS = 5.0
_COUNTED = ("running", "queued", "paused")


def status(home: options.Home = None, address: options.Address = None, as_json: options.Json = False) -> None:
    """Show processes, addresses, health, jobs and devices; exit code 1 where nothing answers."""
    from mistudio_cli.output import emit

    report = gather(Home.at(home), address)
    if as_json:
        emit(report)
    else:
        _show(report)
    if not report["healthy"]:
        raise typer.Exit(1)


def gather(home: Home, address: str | None) -> dict[str, Any]:
    """Everything that `mistudio status` shows."""
    from importlib.metadata import version

    state, found = endpoints.read_state(home), endpoints.read(home)
    processes = {} if state is None else {"up": state.supervisor, **state.children}
    report: dict[str, Any] = {
        "home": str(home.root),
        "version": version("mistudio"),
        "running": bool(state and state.supervisor.alive()),
        "processes": {name: {"pid": ref.pid, "alive": ref.alive()} for name, ref in processes.items()},
        "http": found.url if found else None,
        "grpc": address or (found.grpc if found else None),
        "healthy": False,
    }
    if report["grpc"] is not None:
        report |= _ask(home.root, address)
    return report


def _ask(root: Path, address: str | None) -> dict[str, Any]:
    """What the services say about themselves."""
    from mistudio_cli.session import connect

    try:
        with connect(root, address) as client:
            return {"healthy": True, **_answers(client)}
    except MistudioError as error:
        return {"healthy": False, "error": {"reason": error.reason, "detail": error.message}}


def _answers(client: Client) -> dict[str, Any]:
    from mistudio.job.v1 import job_pb2, job_service_pb2
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.jobs import SERVICES
    from mistudio_cli.output import message_json

    health = client.train.GetHealth(train_service_pb2.GetHealthRequest(), timeout=_SECONDS)
    gpus = client.train.GetGpuStatus(train_service_pb2.GetGpuStatusRequest(), timeout=_SECONDS)
    jobs: dict[str, dict[str, int]] = {}
    for service in SERVICES:
        jobs[service] = {}
        for name in _COUNTED:
            number = job_pb2.JobStatus.Value(f"JOB_STATUS_{name.upper()}")
            request = job_service_pb2.ListJobsRequest(service=service, status=number, page_size=1)
            jobs[service][name] = client.jobs.ListJobs(request, timeout=_SECONDS).total_jobs
    return {"health": message_json(health), "jobs": jobs, "gpu": message_json(gpus)}


def _show(report: Mapping[str, Any]) -> None:
    from mistudio_cli.output import facts_table, show

    facts: dict[str, object] = {"home": report["home"], "version": report["version"]}
    for name, process in report["processes"].items():
        facts[name] = f"process {process['pid']}" + ("" if process["alive"] else ", gone")
    if report["grpc"] is None:
        facts["state"] = "not running; start it with `mistudio up`"
    else:
        facts |= {"HTTP": report["http"] or "unknown", "gRPC": report["grpc"]}
        facts["state"] = _state(report)
    for service, counts in report.get("jobs", {}).items():
        facts[f"{service} jobs"] = ", ".join(f"{number} {name}" for name, number in counts.items())
    for index, gpu in report.get("gpu", {}).get("gpus", {}).items():
        facts[f"GPU {index}"] = f"{gpu['name']}, {gpu['free_gb']:.1f} GB free"
    show(facts_table(facts))


def _state(report: Mapping[str, Any]) -> str:
    if report["healthy"]:
        health = report["health"]
        gpus = f"{health['gpu_count']} GPUs" if health["gpu_available"] else "CPU only"
        return f"{health['status']}, version {health['version']}, {gpus}, {health['free_slots']} free slots"
    return f"no answer: {report['error']['reason']}: {report['error']['detail']}"
