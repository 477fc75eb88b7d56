"""What every command that starts a job does next: say its id, watch it, show its result.

The one way from a start to an exit code, for train, find, explain, run and demo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mistudio_cli import watching
from mistudio_cli.output import emit, message_json, say
from mistudio_core.errors import Failed

if TYPE_CHECKING:
    from mistudio_rpc.client import Client


def after_start(
    client: Client,
    title: str,
    response: Any,
    *,
    home: Path | None,
    detach: bool,
    as_json: bool,
    result: Callable[[], None],
) -> None:
    """Announces a started job, then watches it unless detached, then shows its `result`."""
    if as_json:
        started = message_json(response)
        emit(started if detach else {"started": started})
    else:
        say(f"{title} job {response.job_id}: {response.message}")
        if detach:
            say(f"Watch it: mistudio jobs watch {response.job_id}")
    if not detach:
        to_the_end(client, [(title, response.job_id)], home=home, as_json=as_json)
        result()


def to_the_end(
    client: Client, jobs: Sequence[tuple[str, str]], *, home: Path | None, as_json: bool, after: int = 0
) -> None:
    """Watches jobs until all have ended. Exits with 130 where it was left; raises Failed where one did not complete."""
    try:
        display = watching.watch(client, jobs, home=home, as_json=as_json, after=after)
    except watching.Left:
        raise typer.Exit(watching.INTERRUPTED) from None
    view = watching.first_failure(display)
    if view is not None:
        reason, message = view.error or (view.status.upper(), f"The job was {view.status}.")
        raise Failed(f"{view.title} job {view.job_id}: {message}", reason=reason, facts={"job_id": view.job_id})
