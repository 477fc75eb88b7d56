"""From home, address and token to a connected client.

A token never travels in clear: off loopback, the connection is TLS. MISTUDIO_TOKEN,
MISTUDIO_TLS_CA, MISTUDIO_TLS_CERT and MISTUDIO_TLS_KEY replace what the home would say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio_cli import endpoints
from mistudio_cli.output import say
from mistudio_core.errors import InvalidInput, Unavailable
from mistudio_core.home import Home
from mistudio_core.secret import Secret, read_sealed

if TYPE_CHECKING:
    from mistudio_rpc.channel import Tls
    from mistudio_rpc.client import Client


def connect(home: Path | None = None, address: str | None = None) -> Client:
    """A client of the gateway. Raises Unavailable where none runs on the home and no address is given."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported; errors reach people as ours
    from mistudio_rpc.client import Client

    place = Home.at(home)
    found = endpoints.read(place)
    if not address and found is None:
        raise Unavailable(f"miStudio does not run on {place.root}. Start it with `mistudio up`.")
    target = address or (found.grpc if found else "")
    same = found is not None and target == found.grpc
    tls = _tls(target, secured=bool(same and found and found.tls))

    def find_target() -> str | None:
        now = None if address else endpoints.read(place)
        return now.grpc if now else None

    def on_wait() -> None:
        say("miStudio does not answer; waiting for it. Ctrl-C leaves the watch.", stderr=True)

    return Client(target, bearer(place), tls=tls, find_target=find_target, on_wait=on_wait)


def bearer(home: Home) -> Secret | None:
    """MISTUDIO_TOKEN, else the home's token; None where there is neither."""
    given = os.environ.get("MISTUDIO_TOKEN")
    return Secret(given) if given else read_sealed(home.token_file)


def huggingface_token(file: Path | None) -> Secret | None:
    """The token in a file, else HF_TOKEN; None for none. Raises InvalidInput."""
    if file is None:
        given = os.environ.get("HF_TOKEN", "").strip()
        return Secret(given) if given else None
    try:
        return Secret(file.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.field("huggingface-token-file", str(file), "a readable text file") from error


def _tls(target: str, *, secured: bool) -> Tls | None:
    from mistudio_core.address import is_loopback, split_address
    from mistudio_rpc.channel import Tls

    authority, certificate, key = (_path(f"MISTUDIO_TLS_{part}") for part in ("CA", "CERT", "KEY"))
    if target.startswith("unix:"):
        return None
    host = "" if ":///" in target else split_address("address", target)[0]
    if not secured and authority is None and certificate is None and is_loopback(host):
        return None
    return Tls(certificate=certificate, key=key, authority=authority)


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
