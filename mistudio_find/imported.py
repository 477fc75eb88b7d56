"""An SAE of another origin, made ready to be analysed: its sparse codes on a corpus, and itself in our layout.

`prepared` is the seam to the job: it writes the artifacts `sae` and `codes`, which a training job would have
left, and hands on a context that gives them as inputs. What a killed attempt committed is not made again.
"""

from __future__ import annotations

from typing import Any, cast

from mistudio_core.artifacts import ArtifactReader
from mistudio_core.jobs.context import JobContext
from mistudio_find import imported_sae
from mistudio_find.config import FindConfig
from mistudio_find.imported_sae import ENCODED

_ARTIFACTS = ("sae", "codes")


def prepared(config: FindConfig, ctx: JobContext) -> JobContext:
    """The context in which the analysis runs: the given one, or one with the codes of an imported SAE as inputs.

    Raises InvalidInput for files that are damaged, do not reconstruct or do not fit the model, and for a hook
    that is not there; NotFound, Unsupported, LimitReached (INSUFFICIENT_MEMORY), Corrupt, DiskFull, Cancelled.
    """
    if not config.sae_uri:
        return ctx
    if ctx.committed("codes") is None:
        from mistudio_find import imported_codes  # torch

        ctx.progress("load", fraction=0.0, message=f"Loading {config.sae_uri}")
        imported_codes.make(config, ctx, imported_sae.load(config, ctx))
    else:
        ctx.log("The codes of an earlier attempt are used.")
    return cast(JobContext, _Prepared(ctx))


class _Prepared:
    """A context whose inputs are what this job made, and whose progress begins where that ended."""

    def __init__(self, ctx: JobContext) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def input(self, name: str) -> ArtifactReader:
        """See JobContext."""
        made = self._ctx.committed(name) if name in _ARTIFACTS else None
        return self._ctx.input(name) if made is None else made

    def progress(self, stage: str, *, fraction: float, **more: Any) -> None:
        """See JobContext."""
        self._ctx.progress(stage, fraction=ENCODED + (1 - ENCODED) * fraction, **more)
