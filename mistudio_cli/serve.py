"""`mistudio serve`: hosts services in one control process, in the foreground.

`mistudio up` runs it beside the gateway; a cluster runs one a service. The services are found by
name through their entry points; none is imported here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.output import emit, say

if TYPE_CHECKING:
    from mistudio_rpc.channel import Tls
    from mistudio_rpc.peers import PeerConfig

Services = Annotated[list[str], typer.Argument(help="Names of services: train, find, explain.", show_default=False)]


def serve(
    services: Services,
    home: options.Home = None,
    address: Annotated[
        str,
        typer.Option("--address", help="host:port to listen on besides the home's socket.", show_default=False),
    ] = "",
    probe_address: options.Probe = "",
    metrics_address: options.Metrics = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            help="SERVICE=TARGET of a service that another process hosts; may be repeated.",
            show_default=False,
        ),
    ] = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    cpu_jobs: Annotated[int, typer.Option("--cpu-jobs", min=1, help="Jobs at a time on the CPU.")] = 1,
    checkpoint_seconds: options.CheckpointSeconds = 0,
    as_json: options.Json = False,
) -> None:
    """Host services in one process until SIGTERM."""
    import asyncio
    import logging

    from mistudio_core.home import Home
    from mistudio_rpc.devices import DevicePool
    from mistudio_rpc.registry import find_services
    from mistudio_rpc.server import ServerConfig
    from mistudio_rpc.server import serve as serve_forever

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    place = Home.at(home)
    os.environ["MISTUDIO_HOME"] = str(place.root)  # what this process makes without a home at hand looks there too
    tls = _tls(tls_cert, tls_key, tls_ca)
    config = ServerConfig(
        home=place,
        address=address,
        probe_address=probe_address,
        metrics_address=metrics_address,
        tls=tls,
        checkpoint_seconds=checkpoint_seconds,
        peers=_peers(peer or [], services, tls),
        devices=DevicePool(cpu_slots=cpu_jobs),
    )
    where = [place.control_target, *([address] if address else [])]

    def ready() -> None:
        if as_json:
            emit({"ready": True, "services": services, "addresses": where})
        else:
            say(f"control ready: {', '.join(services)} on {' and '.join(where)}")

    asyncio.run(serve_forever(config, find_services(services), ready))


def _peers(given: list[str], services: list[str], tls: Tls | None) -> PeerConfig | None:
    from mistudio_core.errors import InvalidInput
    from mistudio_rpc.peers import PeerConfig

    targets = {name: target for name, _, target in (text.partition("=") for text in given)}
    for name, target in targets.items():
        if not (name and target) or name in services:
            raise InvalidInput.field("peer", f"{name}={target}", "SERVICE=TARGET of a service not hosted here")
    return PeerConfig(targets=targets, tls=tls) if targets else None


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> Tls | None:
    from mistudio_core.errors import InvalidInput
    from mistudio_rpc.channel import Tls

    given = [path for path in (certificate, key, authority) if path is not None]
    if not given:
        return None
    for path in given:
        if not path.is_file():
            raise InvalidInput.field("tls", str(path), "a readable PEM file")
    if certificate is None or key is None:
        raise InvalidInput.field("tls-cert", certificate or "", "a certificate and its key together")
    return Tls(certificate=certificate, key=key, authority=authority)
