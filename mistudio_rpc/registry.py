"""How a service joins the platform: an entry point in the group `mistudio.services`.

The entry names its servicer and its job type; the server and the worker import no service by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.context import JobContext

if TYPE_CHECKING:
    from mistudio_rpc.runtime import Runtime

GROUP = "mistudio.services"


class JobRunner(Protocol):
    """The worker entry of a service: turns its request message into a domain call and back."""

    def __call__(self, request: bytes, context: JobContext) -> bytes:
        """Runs a job; returns its serialized result."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceEntry:
    """A service as the server sees it."""

    name: str
    """Its name: `train`; also the prefix of its job ids."""
    grpc_service: str
    """Full name of its gRPC service."""
    servicer: Callable[[Runtime], object]
    """Makes the servicer."""
    worker: str
    """`module:function` of its JobRunner, imported only in worker processes."""
    preload: Sequence[str] = ()
    """Modules that a warm spare imports before it has a job."""
    wants_gpu: bool = False
    """Whether its jobs take a GPU where there is one."""
    background: Callable[[Runtime], AbstractAsyncContextManager[None]] | None = None
    """Work beside requests, from before the first request to after the last; None for none."""


def find_services(names: Sequence[str]) -> list[ServiceEntry]:
    """The named services. Raises InvalidInput for a name that is not installed."""
    points = {p.name: p for p in metadata.entry_points(group=GROUP)}
    entries = []
    for name in names:
        if name not in points:
            raise InvalidInput.field("service", name, ", ".join(sorted(points)) or "nothing is installed")
        entry = points[name].load()
        entries.append(entry)
    return entries


def load_runner(worker: str) -> JobRunner:
    """The JobRunner that `module:function` names."""
    module, _, function = worker.partition(":")
    runner: JobRunner = getattr(importlib.import_module(module), function)
    return runner
