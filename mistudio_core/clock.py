"""Time: the wall clock for what people read, the monotonic clock for every duration.

The one module that reads the wall clock, so that tests can replace it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """The current time in UTC, for display and for job ids; never for durations or order."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that never jumps, for durations, leases and deadlines."""
    return time.monotonic()
