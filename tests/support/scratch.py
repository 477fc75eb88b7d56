"""The scratch service: a trivial job type that counts, checkpoints, fails, crashes or hangs on demand."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from grpc_tools import protoc

from mistudio_core.jobs.records import NewJob
from mistudio_core.secret import Secret
from mistudio_rpc.contract import Contract, installed
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


@lru_cache(maxsize=1)
def scratch_pb2() -> ModuleType:
    """The generated module, made on the spot: nothing of the scratch service is in the product."""
    out = Path(tempfile.mkdtemp())
    well_known = Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{Path(__file__).parent}",
            f"-I{ROOT / 'protos'}",
            f"-I{ROOT / 'protos' / 'third_party'}",
            f"-I{well_known}",
            f"--python_out={out}",
            "scratch.proto",
        ]
    )
    assert code == 0
    sys.path.insert(0, str(out))
    return importlib.import_module("scratch_pb2")


def scratch_contract() -> Contract:
    """The installed contract and the scratch service."""
    return Contract([*{s.file for s in installed().services.values()}, scratch_pb2().DESCRIPTOR])


class ScratchServicer:
    """Starts scratch jobs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def StartScratch(self, request, context):
        secrets = {"token": Secret(request.token)} if request.token else {}
        request.token = ""
        new = NewJob(
            service="scratch", request=request.SerializeToString(deterministic=True), request_id=request.request_id
        )
        job, _ = await self._runtime.start_job(new, secrets=secrets)
        return scratch_pb2().StartScratchResponse(job_id=job.job_id)


def scratch_entry() -> ServiceEntry:
    """The scratch service's entry."""
    return ServiceEntry(
        name="scratch",
        grpc_service="mistudio.scratch.v1.ScratchService",
        servicer=ScratchServicer,
        worker="tests.support.scratch_worker:run",
    )
