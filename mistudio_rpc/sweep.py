"""Removes what processes that died left behind: sealed secrets, scratch, staging, files without a row.

Runs at the start of a control process. A running job keeps everything of its own: its worker may be
between a file and its row.
"""

from __future__ import annotations

import asyncio
import shutil

from mistudio_core.errors import MistudioError, NotFound
from mistudio_rpc.runtime import Runtime


async def sweep(runtime: Runtime, *, staging: bool) -> None:
    """Cleans the home; `staging` too where no worker runs."""
    ended = await _ended(runtime, {p.stem for p in runtime.home.secrets.glob("*_*.json")})
    for job_id in ended:
        runtime.forget_secrets(job_id)
    for job_id in await _ended(runtime, {p.name for p in runtime.home.scratch.glob("*_*")}):
        await asyncio.to_thread(shutil.rmtree, runtime.home.scratch / job_id, True)
    if staging:
        await asyncio.to_thread(runtime.artifacts.clear_staging)
        known = await runtime.queries.folders()
        found = await asyncio.to_thread(runtime.artifacts.own_folders)
        for folder in found - known:
            await asyncio.to_thread(shutil.rmtree, runtime.home.artifacts / folder, True)


async def _ended(runtime: Runtime, job_ids: set[str]) -> set[str]:
    """Those of the jobs that have ended or never were."""
    ended = set()
    for job_id in job_ids:
        try:
            job = await runtime.queries.get(job_id)
        except NotFound:
            ended.add(job_id)
        except MistudioError:
            continue
        else:
            ended |= {job_id} if job.is_terminal else set()
    return ended
