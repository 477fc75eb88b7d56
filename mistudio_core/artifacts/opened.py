"""Artifacts opened for reading: verified once, kept while they are used, the longest unused dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from mistudio_core.artifacts.records import ArtifactRecord
from mistudio_core.artifacts.store import ArtifactReader, ArtifactStore

_T = TypeVar("_T")


class OpenArtifacts(Generic[_T]):
    """A bounded set of what `read` makes of artifacts. Safe to share between threads."""

    def __init__(self, store: ArtifactStore, read: Callable[[ArtifactReader], _T], most: int) -> None:
        """Opens from `store`; keeps `most` of them."""
        self._store, self._read, self._most = store, read, most
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _T] = OrderedDict()

    def get(self, record: ArtifactRecord) -> _T:
        """What `read` makes of an artifact; it verifies what it opens, so call this in a thread. Raises what it raises.

        The manifest is small and read each time: an artifact that was removed or damaged since is found. One that
        is dropped is closed by its last user: nothing is closed under a query.
        """
        reader = self._store.open(record)
        with self._lock:
            known = self._open.get(record.folder)
            if known is not None:
                self._open.move_to_end(record.folder)
                return known
        opened = self._read(reader)  # outside of the lock: a first opening reads whole files
        with self._lock:
            opened = self._open.setdefault(record.folder, opened)
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return opened
