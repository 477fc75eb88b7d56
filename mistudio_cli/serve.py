"""`mistudio serve`: hosts services in one control process, in the foreground.

`mistudio up` runs it beside the gateway; a cluster runs one a service. The services are found by
name through their entry points; none is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.output import emit, say

if TYPE_CHECKING:
    from mistudio_rpc.channel import Tls

Services = Annotated[list[str], typer.Argument(help="Names of services: train, find, explain.", show_default=False)]


def serve(
    services: Services,
    home: options.Home = None,
    address: Annotated[
        str,
        typer.Option("--address", help="host:port to listen on besides the home's socket.", show_default=False),
    ] = "",
    probe_address: Annotated[
        str,
        typer.Option("--probe-address", help="host:port that answers health checks only.", show_default=False),
    ] = "",
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    cpu_jobs: Annotated[int, typer.Option("--cpu-jobs", min=1, help="Jobs at a time on the CPU.")] = 1,
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
    config = ServerConfig(
        home=place,
        address=address,
        probe_address=probe_address,
        tls=_tls(tls_cert, tls_key, tls_ca),
        devices=DevicePool(cpu_slots=cpu_jobs),
    )
    where = [place.control_target, *([address] if address else [])]

    def ready() -> None:
        if as_json:
            emit({"ready": True, "services": services, "addresses": where})
        else:
            say(f"control ready: {', '.join(services)} on {' and '.join(where)}")

    asyncio.run(serve_forever(config, find_services(services), ready))


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
