"""Generated requests over the whole OpenAPI document: never a server error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Pipeline


def test_no_generated_request_is_a_server_error(pipeline: Pipeline, tmp_path: Path):
    done = subprocess.run(
        [
            *(
                str(Path(sys.executable).parent / "schemathesis"),
                "run",
                str(pipeline.http.base_url.join("/openapi.json")),
            ),
            *("--header", f"Authorization: {pipeline.http.headers['authorization']}"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", "5"),
            # an endless stream answers no generated request in time
            *(
                "--exclude-path",
                "/gpu/events",
                "--request-timeout",
                "20",
                "--seed",
                "7",
                "--workers",
                "4",
                "--no-color",
            ),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-9000:]
    for job in pipeline.http.get("/api/v1/jobs", params={"page_size": 1000}).json()["jobs"]:
        if job["status"] in ("queued", "running"):
            pipeline.http.post(f"/api/v1/jobs/{job['job_id']}/cancel", json={})
