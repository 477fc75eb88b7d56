"""Options that several commands share, so that they read the same everywhere.

Environment variables stand beside the options they replace. Nothing here is resolved: `session.py`
turns home and address into a connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option("--home", envvar="MISTUDIO_HOME", help="Folder of the installation.", show_default=False),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="MISTUDIO_ADDRESS",
        help="gRPC address of the gateway; default: the one that runs on the home.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Detach = Annotated[bool, typer.Option("--detach", help="Start the job and return; do not watch it.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--huggingface-token-file",
        help="File with a Hugging Face token for gated models; else HF_TOKEN.",
        show_default=False,
    ),
]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain (PEM).", show_default=False)]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="Private key (PEM).", show_default=False)]
TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", help="Authority (PEM) that clients must be signed by: mutual TLS.", show_default=False),
]
Metrics = Annotated[
    str,
    typer.Option(
        "--metrics-address",
        help="host:port that tells Prometheus what is counted, at /metrics; off loopback with TLS and the token.",
        show_default=False,
    ),
]
Probe = Annotated[
    str,
    typer.Option("--probe-address", help="host:port that answers health checks only.", show_default=False),
]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        "--checkpoint-seconds",
        min=0,
        max=15,
        help="Seconds that workers have to write a checkpoint when this stops; for containers, whose end ends them.",
    ),
]
Http = Annotated[str, typer.Option("--http", help="Where HTTP listens, host:port; port 0 takes a free one.")]
Grpc = Annotated[str, typer.Option("--grpc", help="Where gRPC listens, host:port; port 0 takes a free one.")]
