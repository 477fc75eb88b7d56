"""`python -m gateway`: one gateway process, from options to a clean exit."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from gateway.config import ANY_OWNER, GatewayConfig
from gateway.server import Gateway
from mistudio_core.errors import MistudioError
from mistudio_core.home import Home
from mistudio_rpc import contract
from mistudio_rpc.channel import Tls


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(prog="gateway", description="HTTP and gRPC entry of miStudio.")
    options.add_argument("--home", type=Path, help="folder of the installation (default: MISTUDIO_HOME)")
    options.add_argument("--http", default="127.0.0.1:8001", metavar="HOST:PORT", help="default: %(default)s")
    options.add_argument("--grpc", default="127.0.0.1:50051", metavar="HOST:PORT", help="default: %(default)s")
    options.add_argument(
        "--probe-address",
        default="",
        metavar="HOST:PORT",
        help="where health checks alone are answered",
    )
    options.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="OWNER=TARGET",
        help="gRPC target of an owner, * for all others; may be repeated (default: the control process)",
    )
    options.add_argument("--host-name", action="append", default=[], help="further name that Host headers may carry")
    options.add_argument("--endpoints-file", type=Path, help="write the addresses here (JSON) once ready")
    for side, text in (("tls", "listeners"), ("backend-tls", "backends")):
        options.add_argument(f"--{side}-cert", type=Path, help=f"certificate chain towards {text} (PEM)")
        options.add_argument(f"--{side}-key", type=Path, help=f"private key towards {text} (PEM)")
        options.add_argument(
            f"--{side}-ca", type=Path, help=f"authority that the other side's certificate is signed by ({text})"
        )
    return options


def config_of(options: argparse.Namespace) -> GatewayConfig:
    """The configuration that the options describe. Raises InvalidInput."""
    pairs = [text.partition("=") for text in options.backend]
    faulty = [owner for owner, equals, target in pairs if not (owner and equals and target)]
    if faulty:
        parser().error(f"--backend {faulty[0]}: expected OWNER=TARGET")
    backends = {owner: target for owner, _, target in pairs}
    return GatewayConfig(
        http_address=options.http,
        grpc_address=options.grpc,
        probe_address=options.probe_address,
        backends=backends or {ANY_OWNER: Home.at(options.home).control_target},
        tls=_tls(options.tls_cert, options.tls_key, options.tls_ca),
        backend_tls=_tls(options.backend_tls_cert, options.backend_tls_key, options.backend_tls_ca),
        host_names=tuple(options.host_name),
    )


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> Tls | None:
    if certificate is None and key is None and authority is None:
        return None
    return Tls(certificate=certificate, key=key, authority=authority)


async def _run(config: GatewayConfig, endpoints_file: Path | None) -> None:
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    gateway = Gateway(contract.installed(), config)
    await gateway.start()
    if endpoints_file is not None:
        gateway.write_endpoints(endpoints_file)
    sys.stderr.write(f"gateway ready: {gateway.endpoints()['url']}, gRPC {gateway.grpc_address}\n")
    sys.stderr.flush()
    await stop.wait()
    await gateway.stop()


def main() -> int:
    """Runs until SIGTERM or SIGINT. 0 after a clean stop, 1 where it cannot start, 2 for wrong options."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = parser().parse_args()
    try:
        asyncio.run(_run(config_of(options), options.endpoints_file))
    except MistudioError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 1
    except (OSError, ValueError) as error:  # certificate files
        sys.stderr.write(f"INVALID_FIELD: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
