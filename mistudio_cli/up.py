"""`mistudio up`: the gateway and the control process, kept running in the foreground or behind it.

The supervising is in `supervisor.py`; this is the command, its background form and what it says.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import endpoints, options, supervisor
from mistudio_cli.children import LOG_BYTES
from mistudio_cli.endpoints import Endpoints
from mistudio_cli.output import emit, say
from mistudio_cli.supervisor import READY_SECONDS, Supervisor, UpConfig
from mistudio_core import clock
from mistudio_core.errors import Unavailable
from mistudio_core.home import Home


def up(
    home: options.Home = None,
    http: options.Http = "127.0.0.1:8001",
    grpc: options.Grpc = "127.0.0.1:50051",
    probe_address: options.Probe = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return once ready; go on in the background.")] = False,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--host-name", help="Further name that Host headers may carry.", show_default=False),
    ] = None,
    cpu_jobs: Annotated[int, typer.Option("--cpu-jobs", min=1, help="Jobs at a time on the CPU.")] = 1,
    checkpoint_seconds: options.CheckpointSeconds = 0,
    as_json: options.Json = False,
) -> None:
    """Start miStudio: gateway and control process."""
    place = Home.at(home)
    config = UpConfig(
        home=place,
        http=http,
        grpc=grpc,
        probe=probe_address,
        checkpoint_seconds=checkpoint_seconds,
        tls=(tls_cert, tls_key, tls_ca),
        cpu_jobs=cpu_jobs,
        host_names=tuple(host_name or ()),
    )
    if detach:
        already = supervisor.running(place)
        show_ready(place, start_detached(config), already=already, as_json=as_json)
        return
    with supervisor.only_one(place) as free:
        if free:
            Supervisor(config).run(lambda found: show_ready(place, found, already=False, as_json=as_json))
            return
    show_ready(place, wait_for_other(place), already=True, as_json=as_json)


def start_detached(config: UpConfig) -> Endpoints:
    """Where miStudio runs on the home, started in the background unless it does already. Raises MistudioError."""
    home = config.home
    if supervisor.running(home):
        return wait_for_other(home)
    log = home.logs / "up.log"
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as stream:
        start = stream.tell()
        process = subprocess.Popen(
            _foreground(config), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    ends = clock.monotonic() + READY_SECONDS + 10
    while clock.monotonic() < ends:
        state = endpoints.read_state(home)
        found = endpoints.read(home)
        if state is not None and state.supervisor.pid == process.pid and state.ready and found is not None:
            return found
        if process.poll() is not None:
            said = log.read_bytes()[start:].decode(errors="replace").strip()
            raise _failed(said)
        time.sleep(0.05)
    process.terminate()
    raise Unavailable(f"miStudio was not ready in time. See {log}.")


def wait_for_other(home: Home) -> Endpoints:
    """Where another supervisor serves, once it is ready. Raises Unavailable."""
    ends = clock.monotonic() + READY_SECONDS
    while clock.monotonic() < ends:
        state, found = endpoints.read_state(home), endpoints.read(home)
        if state is not None and state.ready and found is not None:
            return found
        time.sleep(0.05)
    raise Unavailable(f"Another `mistudio up` has {home.root} but is not ready. See `mistudio status`.")


def show_ready(home: Home, found: Endpoints, *, already: bool, as_json: bool) -> None:
    """Addresses, docs page, logs and how to stop."""
    if as_json:
        emit(
            {
                "ready": True,
                "already_running": already,
                "home": str(home.root),
                "http": found.url,
                "grpc": found.grpc,
                "docs": f"{found.url}/docs",
                "token_file": str(home.token_file),
                "logs": str(home.logs),
            }
        )
        return
    say("miStudio already runs." if already else "miStudio is ready.")
    say(f"  HTTP   {found.url}   (API documentation: {found.url}/docs)")
    say(f"  gRPC   {found.grpc}")
    say(f"  home   {home.root}")
    say(f"  logs   {home.logs}")
    if found.tls:
        say("  TLS    set MISTUDIO_TLS_CA to the authority's certificate (PEM) for other commands")
    say("  token  mistudio token")
    say("  stop   mistudio down")


def _foreground(config: UpConfig) -> list[str]:
    arguments = [sys.executable, "-m", "mistudio_cli", "up", "--json", "--home", str(config.home.root)]
    arguments += ["--http", config.http, "--grpc", config.grpc, "--cpu-jobs", str(config.cpu_jobs)]
    arguments += ["--checkpoint-seconds", str(config.checkpoint_seconds)]
    if config.probe:
        arguments += ["--probe-address", config.probe]
    for option, path in zip(("--tls-cert", "--tls-key", "--tls-ca"), config.tls, strict=True):
        if path is not None:
            arguments += [option, str(Path(path).resolve())]
    for name in config.host_names:
        arguments += ["--host-name", name]
    return arguments


def _failed(said: str) -> Unavailable:
    """The error that the background process printed as JSON, raised again here."""
    import json

    lines = [line for line in said.splitlines() if line.startswith("{")]
    try:
        error = json.loads(lines[-1])["error"]
        return Unavailable(error["detail"], reason=error["reason"], facts=error.get("metadata"))
    except (IndexError, KeyError, TypeError, ValueError):
        return Unavailable(f"miStudio could not start: {said[-500:] or 'it said nothing'}")
