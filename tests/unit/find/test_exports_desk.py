"""The export desk on a real store and database, with the real process that makes exports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import Corrupt, Failed, NotFound, Unsupported
from mistudio_core.home import Home
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.records import InputReference, JobRecord, NewJob
from mistudio_find.exports import desk
from mistudio_find.exports.desk import ExportDesk
from mistudio_rpc.runtime import Runtime
from tests.unit.find.records import dead, record, write_features
from tests.unit.find.stores import write_store


class Setting:
    """A find job with its evidence in a store."""

    def __init__(self, runtime: Runtime, job: JobRecord) -> None:
        self.runtime, self.job = runtime, job
        self.desk = ExportDesk(runtime.artifacts, runtime.jobs, runtime.queries)

    async def store(self, kind: str, name: str, source: Path, job_id: str) -> None:
        writer = self.runtime.artifacts.stage(artifact_uri(job_id, kind, name), kind, job_id=job_id, attempt=1)
        shutil.copytree(source, writer.folder, dirs_exist_ok=True)
        await self.runtime.jobs.add_upload(writer.seal())

    async def exports(self) -> list[ArtifactRecord]:
        return await self.runtime.queries.artifacts_of(self.job.job_id, "export")

    def left_over(self) -> list[Path]:
        staging = self.runtime.artifacts.staging
        return list(staging.iterdir()) if staging.exists() else []


@pytest.fixture
async def setting(home: Home, tmp_path: Path) -> AsyncIterator[Setting]:
    runtime = await Runtime.open(home)
    training, _ = await runtime.jobs.start(NewJob(service="train", request=b""))
    codes = InputReference(job_id=training.job_id, kind="codes")
    job, _ = await runtime.jobs.start(NewJob(service="find", request=b"", inputs={"codes": codes}))
    found = Setting(runtime, job)
    await found.store("features", "analysis", write_features(tmp_path / "f", [record(0), dead(1)]), job.job_id)
    yield found
    await runtime.close()


async def test_equal_requests_make_one_export_and_the_next_finds_it(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    told = []
    real = desk.run_aside

    async def counted(module: str, what: str, work: dict[str, Any]) -> dict[str, Any]:
        told.append(work["format"])
        return await real(module, what, work)

    monkeypatch.setattr(desk, "run_aside", counted)
    both = await asyncio.gather(*(setting.desk.get(setting.job, "xml") for _ in range(2)))
    again = await setting.desk.get(setting.job, "xml")
    assert told == ["xml"]
    assert {reader.record.uri for reader, _ in (*both, again)} == {f"/data/find/{setting.job.job_id}/xml"}
    assert [r.sha256 for r in await setting.exports()] == [again[0].record.sha256]
    assert again[0].read_bytes("feature_analysis.xml").startswith(b"<?xml")
    csv, _ = await setting.desk.get(setting.job, "csv")
    assert csv.record.kind == "features" and told == ["xml"]
    assert setting.left_over() == []


async def test_one_export_is_made_at_a_time(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    running, most = 0, 0
    real = desk.run_aside

    async def watched(module: str, what: str, work: dict[str, Any]) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        found = await real(module, what, work)
        running -= 1
        return found

    monkeypatch.setattr(desk, "run_aside", watched)
    await asyncio.gather(*(setting.desk.get(setting.job, name) for name in ("xml", "txt", "parquet")))
    assert most == 1 and len(await setting.exports()) == 3


async def test_damaged_evidence_is_refused_and_nothing_is_left(setting: Setting):
    features = (await setting.runtime.queries.artifacts_of(setting.job.job_id, "features"))[0]
    path = setting.runtime.artifacts.root / features.folder / "features.jsonl"
    path.write_bytes(path.read_bytes().replace(b"soup", b"soap", 1))
    with pytest.raises(Corrupt) as caught:
        await setting.desk.get(setting.job, "parquet")
    assert caught.value.reason == "ARTIFACT_CORRUPT" and "features.jsonl" in caught.value.message
    assert await setting.exports() == [] and setting.left_over() == []


def exporting():
    """Processes that make an export; those of earlier tests may be ending."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one
            if "mistudio_find.exports" in child.cmdline():
                found.append(child)
    return found


async def test_a_killed_process_is_an_error_and_the_next_call_tries_again(setting: Setting):
    waiting = asyncio.create_task(setting.desk.get(setting.job, "txt"))
    while not (found := exporting()):
        await asyncio.sleep(0.01)
        assert not waiting.done()
    found[0].kill()
    with pytest.raises(Failed, match="code -9"):
        await waiting
    assert await setting.exports() == [] and setting.left_over() == []
    reader, form = await setting.desk.get(setting.job, "txt")
    assert b"Feature 0" in reader.read_bytes(form.filename)


async def test_a_caller_that_leaves_does_not_end_the_export(setting: Setting):
    waiting = asyncio.create_task(setting.desk.get(setting.job, "txt"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await setting.desk.get(setting.job, "txt")
    assert len(await setting.exports()) == 1


async def test_a_lost_export_is_made_again(setting: Setting):
    await setting.desk.get(setting.job, "txt")
    setting.runtime.artifacts.remove((await setting.exports())[0])
    reader, _ = await setting.desk.get(setting.job, "txt")
    assert reader.read_bytes("feature_analysis.txt") and len(await setting.exports()) == 1


async def test_delphi_takes_the_activations_of_the_training_job(setting: Setting, tmp_path: Path):
    with pytest.raises((Unsupported, NotFound), match=r"activations|codes"):
        await setting.desk.get(setting.job, "delphi")
    training = setting.job.inputs["codes"].job_id
    await setting.store("codes", "codes", write_store(tmp_path / "codes"), training)
    reader, form = await setting.desk.get(setting.job, "delphi")
    assert reader.record.file(form.filename).size_bytes > 10_000


def test_the_process_ends_with_its_caller(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-m", "mistudio_find.exports"], stdin=-1, stdout=-1, stderr=-1)
    said, trouble = process.communicate(json.dumps({"format": "zip"}).encode() + b"\n", timeout=60)
    assert (process.returncode, said) == (1, b""), trouble


def test_what_serves_exports_imports_neither_torch_nor_arrow():
    modules = "import sys, mistudio_find.service; print([m for m in ('torch', 'pyarrow', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
