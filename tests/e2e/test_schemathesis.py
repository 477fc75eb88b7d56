"""Generated requests over the whole OpenAPI document: never a server error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Pipeline


@pytest.mark.timeout(420)
def test_no_generated_request_is_a_server_error(pipeline: Pipeline, tmp_path: Path):
    document = str(pipeline.http.base_url.join("/openapi.json"))
    program = str(Path(sys.executable).parent / "schemathesis")
    options = {
        "--header": f"Authorization: {pipeline.http.headers['authorization']}",
        "--checks": "not_a_server_error",
        "--phases": "coverage,fuzzing",
        "--max-examples": "5",
        # endless streams answer no generated request in time; pruning would remove what other tests read
        "--exclude-path-regex": "/(gpu|engines)/events$|/find/history/prune$",
        "--request-timeout": "20",
        "--seed": "7",
    }
    arguments = [part for option in options.items() for part in option]
    done = subprocess.run(
        [program, "run", document, "--no-color", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-9000:]
    for service in ("scratch", "train", "find", "explain"):  # what it started must not stand before the next test's
        listed = pipeline.http.get("/api/v1/jobs", params={"service": service, "page_size": 1000}).json()
        for job in listed["jobs"]:
            if job["status"] in ("queued", "running", "paused"):
                pipeline.http.post(f"/api/v1/jobs/{job['job_id']}/cancel", json={}).raise_for_status()
