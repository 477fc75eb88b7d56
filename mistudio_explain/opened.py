"""Runs opened for reading: verified once, kept while they are used, the longest unused closed first.

Knows artifacts and tables, not jobs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from mistudio_core.artifacts import ArtifactRecord, ArtifactStore
from mistudio_explain.table import ExplanationTable

MOST_OPEN = 64
"""Runs that are kept open."""


class OpenTables:
    """A bounded set of opened tables. Safe to share between threads."""

    def __init__(self, store: ArtifactStore, most: int = MOST_OPEN) -> None:
        """Opens from `store`; keeps `most` of them."""
        self._store, self._most = store, most
        self._lock = threading.Lock()
        self._open: OrderedDict[str, ExplanationTable] = OrderedDict()

    def get(self, record: ArtifactRecord) -> ExplanationTable:
        """The table of an `explanations` artifact; verifies it, so call it in a thread. Raises Corrupt, Unsupported.

        One that is dropped is closed by its last user: nothing is closed under a query.
        """
        reader = self._store.open(record)  # its manifest is small and read each time: what was damaged since is found
        with self._lock:
            known = self._open.get(record.folder)
            if known is not None:
                self._open.move_to_end(record.folder)
                return known
        table = ExplanationTable.of(reader)  # outside of the lock: a first opening reads the whole file
        with self._lock:
            table = self._open.setdefault(record.folder, table)
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return table
