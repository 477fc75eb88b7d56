"""The one exception family of miStudio.

    MistudioError
    ├── InvalidInput          the caller sent something unusable         (400)
    │   └── Unsupported       understood, but not honoured               (400)
    ├── NotFound              no such job, model, corpus, artifact       (404)
    ├── NotReady              right thing, wrong state                   (409)
    ├── Conflict              etag or request_id                         (409)
    ├── Unauthenticated       token missing or wrong                     (401)
    ├── Forbidden             token valid, call not allowed              (403)
    ├── LimitReached          queue, rate, size, disk                    (429)
    ├── Corrupt               bytes do not match their digest            (500)
    ├── Failed                the work itself failed                     (500)
    ├── Unavailable           cannot be reached now                      (503)
    ├── DeadlineExceeded      took longer than the caller allows         (504)
    └── Internal              a defect of miStudio                       (500)

A `reason` is a short name of `mistudio.error.v1.Reason`. `mistudio_rpc/status.py` is the only map
to gRPC status; the client raises what the server raised. Messages are for people: what is wrong,
what is allowed, what to do. `facts` are safe to show: no host paths, no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldProblem:
    """One field of a request that cannot be used."""

    field: str
    """Path of the field, for example `learning_rate`."""
    value: str
    """What was sent, shortened; empty for secrets."""
    allowed: str
    """What is allowed, in words."""
    remedy: str = ""
    """What to do, one sentence."""


class MistudioError(Exception):
    """Base of every error that a caller may see."""

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        facts: Mapping[str, object] | None = None,
        problems: Sequence[FieldProblem] = (),
    ) -> None:
        """`message` for people; `reason` from the catalogue; `facts` and `problems` for programs."""
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.facts: dict[str, str] = {k: str(v) for k, v in (facts or {}).items()}
        self.problems = tuple(problems)


class InvalidInput(MistudioError):
    """The caller sent something unusable."""

    default_reason = "INVALID_FIELD"

    @classmethod
    def field(
        cls, field: str, value: object, allowed: str, remedy: str = "", *, reason: str | None = None
    ) -> InvalidInput:
        """An error about one field, worded like every other one."""
        shown = repr(value) if isinstance(value, str) else str(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        text = f"{field}: {shown} is not allowed; allowed: {allowed}." + (f" {remedy}" if remedy else "")
        problem = FieldProblem(field=field, value=shown, allowed=allowed, remedy=remedy)
        facts = {"field": field, "value": shown, "allowed": allowed}
        return cls(text, reason=reason, facts=facts, problems=[problem])


class Unsupported(InvalidInput):
    """Understood, but not honoured by this release, backend, model or SAE."""

    default_reason = "UNSUPPORTED"

    def __init__(self, what: str, *, why: str, instead: str) -> None:
        """Says what cannot be honoured, why, and what to do instead; raised before any work."""
        super().__init__(
            f"{what} is not supported: {why}. {instead}",
            facts={"what": what, "why": why, "instead": instead},
            problems=[FieldProblem(field=what, value="", allowed=why, remedy=instead)],
        )


class NotFound(MistudioError):
    """No such job, model, corpus, artifact, feature or route."""

    default_reason = "JOB_NOT_FOUND"


class NotReady(MistudioError):
    """The right thing in the wrong state."""

    default_reason = "JOB_NOT_READY"


class Conflict(MistudioError):
    """Someone else changed it, or a request_id was used before with another body."""

    default_reason = "ETAG_MISMATCH"


class StaleAttempt(Conflict):
    """A report of an attempt that is no longer the current one: its worker must stop."""

    default_reason = "STALE_ATTEMPT"


class Unauthenticated(MistudioError):
    """The bearer token is missing or wrong."""

    default_reason = "TOKEN_MISSING"


class Forbidden(MistudioError):
    """The caller is known but may not do this."""

    default_reason = "FORBIDDEN"


class LimitReached(MistudioError):
    """A limit on size, rate, queue or space is reached."""

    default_reason = "LIMIT_REACHED"


class DiskFull(LimitReached):
    """No room for what must be written: the job pauses and goes on when there is."""

    default_reason = "DISK_FULL"


class Corrupt(MistudioError):
    """Stored bytes do not match their recorded digest; nothing of them is used."""

    default_reason = "ARTIFACT_CORRUPT"


class Failed(MistudioError):
    """The work itself failed; `reason` says how."""

    default_reason = "INTERNAL"


class Unavailable(MistudioError):
    """Cannot be reached now; trying again later may help."""

    default_reason = "UNAVAILABLE"


class DeadlineExceeded(MistudioError):
    """The call took longer than its caller allows."""

    default_reason = "DEADLINE_EXCEEDED"


class Internal(MistudioError):
    """A defect of miStudio; `facts["id"]` finds the details in the log."""

    default_reason = "INTERNAL"


class Cancelled(Exception):
    """Raised inside a worker when its job was asked to stop; not an error of the job."""
