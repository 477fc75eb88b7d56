"""Job ids, lease tokens and etags.

A job id is `<service>_<YYYYMMDD>_<HHMMSS>_<16 hex>`; it is no secret. Lease tokens and bearer
tokens are secrets of 256 bits.
"""

from __future__ import annotations

import re
import secrets

from mistudio_core import clock
from mistudio_core.errors import NotFound

_JOB_ID = re.compile(r"^(?P<service>[a-z][a-z0-9]*)_\d{8}_\d{6}_[0-9a-f]{8,32}$")
_JOB_ID_IN_URI = re.compile(r"(?:^|/)([a-z][a-z0-9]*_\d{8}_\d{6}_[0-9a-f]{8,32})(?:[/_.]|$)")
_UPLOADS = "/data/samples/"
UPLOAD_OWNER = "train"
"""The service that keeps uploads."""


def new_job_id(service: str) -> str:
    """A fresh id for a job of `service`."""
    return f"{service}_{clock.now():%Y%m%d_%H%M%S}_{secrets.token_hex(8)}"


def service_of(job_id: str) -> str:
    """The service that owns a job, read from its id. Raises NotFound for what is no job id."""
    match = _JOB_ID.match(job_id)
    if match is None:
        raise job_not_found(job_id)
    return match["service"]


def owner_of_uri(uri: str) -> str:
    """The service that keeps an artifact, read from its URI; empty where the URI names none."""
    if f"/{uri.lstrip('/')}".startswith(_UPLOADS):
        return UPLOAD_OWNER
    return job_of_uri(uri).partition("_")[0]


def job_of_uri(uri: str) -> str:
    """The job that wrote an artifact, read from its URI; empty where the URI names none."""
    match = _JOB_ID_IN_URI.search(uri)
    return match[1] if match else ""


def job_not_found(job_id: str) -> NotFound:
    """The error for an id that names no job."""
    shown = job_id if len(job_id) <= 60 else job_id[:57] + "..."
    return NotFound(
        f"Job {shown} not found. List the jobs there are with `mistudio jobs list`.", facts={"job_id": shown}
    )


def new_token() -> str:
    """A secret for a lease or a bearer: 64 hex digits."""
    return secrets.token_hex(32)


def new_etag() -> str:
    """A version mark for a row; unequal to every earlier one."""
    return secrets.token_hex(8)
