"""A run over two managed processes of which one is killed: no feature is lost, and the engine comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from mistudio_explain import job
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.settings import load_engines
from tests.support.vllm_standin import behave
from tests.unit.explain.pools import place, reached, until


async def test_a_run_survives_the_death_of_a_process(home, tmp_path: Path, make_context):
    there = place(home, tmp_path)
    behave(there.folder, answer_seconds=0.3)
    context = make_context()
    config = ExplainConfig(find_job_id="find_1", engine="local", min_coherence=0.0, concurrency=8, use_cache=False)
    async with there.opened() as pool:
        run = asyncio.create_task(asyncio.to_thread(job.run, config, context, load_engines(home.engines_file), home))
        records = await until(pool, "ready")  # the run's wish started them
        await reached(pool, lambda: sum(r.in_flight for r in pool.records("local")) >= 2)
        os.kill(records[0].pid, signal.SIGKILL)
        result = await run
        await reached(pool, lambda: [r.restarts for r in pool.records("local")] == [1, 0])
        await until(pool, "ready")
    assert result.total_features_processed >= 4
    assert result.summary_insights.failed == 0
    assert [e.model for e in result.summary_insights.engines] == ["tiny"]
