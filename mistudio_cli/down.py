"""`mistudio down`: stops the gateway, the control process and its engines; workers go on with their jobs.

What it stops is named in the record that `mistudio up` keeps; nothing is stopped by name.
"""

from __future__ import annotations

import signal
import time

from mistudio_cli import endpoints, options, supervisor
from mistudio_cli.output import emit, say
from mistudio_core import clock
from mistudio_core.engine_records import end_all
from mistudio_core.errors import Unavailable
from mistudio_core.home import Home

STOP_SECONDS = supervisor.GATEWAY_STOP_SECONDS + supervisor.CONTROL_STOP_SECONDS + 10


def down(home: options.Home = None, as_json: options.Json = False) -> None:
    """Stop miStudio; jobs that run go on, and report when it is up again."""
    place = Home.at(home)
    stopped = stop(place)
    if as_json:
        emit({"stopped": stopped, "home": str(place.root)})
    else:
        say("miStudio is stopped." if stopped else f"miStudio does not run on {place.root}.")


def stop(home: Home) -> bool:
    """Stops what runs on a home; False where nothing did. Raises Unavailable where it does not stop."""
    state = endpoints.read_state(home)
    if state is None:
        return end_all(home) > 0
    found = state.supervisor.alive() or any(child.alive() for child in state.children.values())
    state.supervisor.signal(signal.SIGTERM)
    ends = clock.monotonic() + STOP_SECONDS
    while state.supervisor.alive():
        if clock.monotonic() > ends:
            raise Unavailable(f"Process {state.supervisor.pid} does not stop. See the logs in {home.logs}.")
        time.sleep(0.05)
    supervisor.stop_leftovers(home)
    end_all(home)
    return found
