"""Watches jobs: one thread a job reads its events, the caller's thread shows them.

Ctrl-C leaves the watch and never the job, and says how to come back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio_cli.output import say
from mistudio_cli.render import Display, display_for
from mistudio_core.errors import MistudioError
from mistudio_core.home import default_root

if TYPE_CHECKING:
    from mistudio.job.v1 import job_event_pb2

    from mistudio_cli.jobview import JobView
    from mistudio_rpc.client import Client

INTERRUPTED = 130


class Left(Exception):
    """The person left the watch with Ctrl-C; the jobs go on."""


def watch(
    client: Client, jobs: Sequence[tuple[str, str]], *, home: Path | None, as_json: bool, after: int = 0
) -> Display:
    """Shows jobs (titles and ids) until each has ended. Raises Left on Ctrl-C, and what the server raises."""
    events: queue.Queue[job_event_pb2.JobEvent | MistudioError | None] = queue.Queue()
    for _, job_id in jobs:
        threading.Thread(target=_read, args=(client, job_id, after, events), daemon=True).start()
    display = display_for(jobs, as_json=as_json)
    try:
        with display:
            _show(display, events, len(jobs))
    except KeyboardInterrupt:
        names = " ".join(job_id for _, job_id in jobs)
        at = f" --home {home}" if home is not None and home != default_root() else ""
        goes = "the job goes on" if len(jobs) == 1 else "the jobs go on"
        say(f"\nLeft the watch; {goes}. Watch again: mistudio jobs watch {names}{at}", stderr=True)
        raise Left from None
    return display


def first_failure(display: Display) -> JobView | None:
    """The first job that ended otherwise than completed; None where all completed."""
    return next((view for view in display.views.values() if view.status != "completed"), None)


def _show(display: Display, events: queue.Queue[job_event_pb2.JobEvent | MistudioError | None], watches: int) -> None:
    open_watches = watches
    while open_watches:
        item = events.get()
        if item is None:
            open_watches -= 1
        elif isinstance(item, MistudioError):
            raise item
        else:
            display.event(item)


def _read(
    client: Client, job_id: str, after: int, events: queue.Queue[job_event_pb2.JobEvent | MistudioError | None]
) -> None:
    try:
        for event in client.watch(job_id, after):
            events.put(event)
    except MistudioError as error:
        events.put(error)
    except ValueError:  # the channel was closed under a watch that was left
        return
    else:
        events.put(None)
