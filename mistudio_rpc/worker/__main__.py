"""Entry of a worker process: `python -m mistudio_rpc.worker FD MODULES`.

Imports MODULES, then waits on the socket FD for a job and the lock of its device. The end of the
stream without a job means that the service is gone or stopping: the spare exits.
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import logging
import os
import shutil
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

from mistudio.worker.v1 import worker_service_pb2

from mistudio_core.artifacts.files import disk_errors
from mistudio_core.errors import Cancelled, DiskFull, MistudioError, StaleAttempt
from mistudio_core.jobs.records import ErrorRecord
from mistudio_rpc import messages
from mistudio_rpc.registry import load_runner
from mistudio_rpc.worker.context import WorkerContext
from mistudio_rpc.worker.reporter import Reporter

log = logging.getLogger("mistudio.worker")
_MAX_JOB_BYTES = 256 * 1024 * 1024


def main() -> int:
    """Runs at most one job; the exit code is 0 unless the worker itself broke."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in filter(None, sys.argv[2].split(",")):
        importlib.import_module(module)
    gc.freeze()  # what was imported stays: collections of garbage need not walk through it again and again
    received = _receive(channel)
    if received is None:
        return 0
    spec, device_lock = received
    _redirect_output(Path(spec["log_file"]))
    os.environ["MISTUDIO_HOME"] = spec["home"]
    # keep only the lock: it is released when this process ends, however that happens
    os.set_inheritable(device_lock, False)
    reporter = Reporter(spec["target"], spec["job_id"], int(spec["attempt"]), spec["token"])
    try:
        reporter.start()
        reporter.finish(_run(spec, reporter))
    except StaleAttempt as error:
        log.warning("%s", error.message)
    finally:
        shutil.rmtree(spec["scratch"], ignore_errors=True)
    return 0


def _run(spec: dict[str, Any], reporter: Reporter) -> worker_service_pb2.FinishRequest:
    """The outcome of the job; every error becomes one, an unexpected one with an id into the log."""
    try:
        scratch = Path(spec["scratch"])
        with disk_errors(scratch.parent.parent, "the job's scratch folder"):
            scratch.mkdir(parents=True, exist_ok=True)
            (scratch.parent / "kept").mkdir(exist_ok=True)
        context = WorkerContext(spec, reporter)
        result = load_runner(spec["worker"])(base64.b64decode(spec["request"]), context)
        return worker_service_pb2.FinishRequest(result=result)
    except Cancelled:
        return worker_service_pb2.FinishRequest(cancelled=True)
    except StaleAttempt:
        raise
    except DiskFull as error:
        log.warning("paused: %s", error.message)
        return worker_service_pb2.FinishRequest(paused=_error(error))
    except MistudioError as error:
        log.exception("failed")
        return worker_service_pb2.FinishRequest(error=_error(error))
    except MemoryError:
        text = "The worker ran out of memory. Lower batch_size, max_sequence_length or hidden_dim."
        return worker_service_pb2.FinishRequest(
            error=messages.error_message(ErrorRecord(reason="OUT_OF_MEMORY", message=text))
        )
    except Exception:
        error_id = uuid.uuid4().hex[:12]
        log.exception("failed unexpectedly (id %s)", error_id)
        text = f"The worker failed (id {error_id}). The job's log has the details under this id."
        record = ErrorRecord(reason="INTERNAL", message=text, facts={"id": error_id})
        return worker_service_pb2.FinishRequest(error=messages.error_message(record))


def _error(error: MistudioError) -> Any:
    return messages.error_message(ErrorRecord(reason=error.reason, message=error.message, facts=error.facts))


def _receive(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """(job, descriptor of the device's lock); None at the end of the stream."""
    header, fds, _flags, _address = socket.recv_fds(channel, 8, 1)
    if len(header) < 8 or not fds:
        return None
    size = int.from_bytes(header, "big")
    if size > _MAX_JOB_BYTES:
        raise ValueError(f"job of {size} bytes")
    body = bytearray()
    while len(body) < size:
        block = channel.recv(min(65536, size - len(body)))
        if not block:
            return None
        body += block
    channel.close()
    return json.loads(body), fds[0]


def _redirect_output(path: Path) -> None:
    """Sends everything that the job prints to its own log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


if __name__ == "__main__":
    sys.exit(main())
